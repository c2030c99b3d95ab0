//! Events and streams, as they are read.

use async_trait::async_trait;
use oriva_hub_actors::{
    model::{AppId, Offset, StreamKey, StreamKind, Timestamp},
    ports::{Page, PageLimit},
};

use super::{
    dialect::{Commit as _, Dialect, SqlRow as _, SqlStore},
    rows::{event_columns, event_from_row},
    statement::{Kind, Rows, Statement},
};
use crate::store::{EventFilter, EventPage, EventReader, PageRequest, StoreError, TOTAL_CAP, batch::LONGEST_WAIT_MS};

#[async_trait]
impl<S: SqlStore> EventReader for S {
    async fn events(&self, app: &AppId, filter: &EventFilter) -> Result<EventPage, StoreError> {
        let (query, count) = list_queries::<S::Db>(app, filter);
        let mut transaction = self.begin_read(&StreamKey::App(app.clone())).await?;
        let rows = S::Db::fetch_all(&mut transaction, query).await?;
        let total = S::Db::fetch_one(&mut transaction, count).await?.big(0)?;
        transaction.commit().await?;
        let events: Vec<_> = rows.iter().map(|row| event_from_row(row, 0)).collect::<Result<_, _>>()?;
        let bytes: usize = events.iter().map(|event| event.event().data.as_str().len()).sum();
        let is_full = events.len() == filter.limit as usize || bytes >= MAX_LIST_BYTES;
        Ok(EventPage { events, total, is_full })
    }

    async fn head(&self, stream: &StreamKey) -> Result<Offset, StoreError> {
        let row = self.query_optional(stream, head_query(stream)).await?;
        row.map_or(Ok(0), |row| row.big(0))
    }

    async fn heads(&self, streams: &[StreamKey]) -> Result<Vec<Offset>, StoreError> {
        let mut asked = Rows::new(&[("position", Kind::Big), ("kind", Kind::Text), ("name", Kind::Text)]);
        for (position, stream) in (0_i64..).zip(streams) {
            asked.push([position.into(), stream.kind().as_str().into(), stream.name().into()]);
        }
        let after = ") select asked.position, streams.last_offset from asked \
                     join streams on streams.kind = asked.kind and streams.key = asked.name";
        let mut heads = vec![0; streams.len()];
        for query in S::Db::with_rows("with asked (position, kind, name) as (", asked, after) {
            for row in self.query_all(&StreamKey::Broadcast, query).await? {
                if let Some(head) = heads.get_mut(row.big(0)? as usize) {
                    *head = row.big(1)?;
                }
            }
        }
        Ok(heads)
    }

    async fn pages(&self, requests: &[PageRequest], limit: PageLimit) -> Result<Vec<Page>, StoreError> {
        let mut pages: Vec<Page> = requests.iter().map(|_| Page { events: Vec::new(), head: 0 }).collect();
        for (kind, columns) in STREAMS {
            for query in page_queries::<S::Db>(requests, limit, kind, columns) {
                for row in self.query_all(&StreamKey::Broadcast, query).await? {
                    let Some(page) = pages.get_mut(row.big(0)? as usize) else { continue };
                    page.head = row.big_or_null(1)?.unwrap_or(0);
                    if row.big_or_null(3)?.is_some() {
                        page.events.push(event_from_row(&row, 4)?);
                    }
                }
            }
        }
        Ok(pages)
    }

    async fn purge_idempotency_keys(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let mut transaction = self.begin_write().await?;
        // The condition stands twice: a request may renew a key between the query and the deletion.
        let delete = Statement::new(
            "delete from idempotency_keys where (app_id, key) in \
             (select app_id, key from idempotency_keys where expires_at <= $1 limit $2) and expires_at <= $1",
        );
        let deleted = S::Db::execute(&mut transaction, delete.bind(now).bind(i64::from(limit))).await?;
        transaction.commit().await?;
        Ok(deleted)
    }
}

/// Bytes of `event_data` in one list. The rest is on the next page.
const MAX_LIST_BYTES: usize = 4 << 20;

/// Each kind of stream, and the columns of an event that say which stream contains it and where.
const STREAMS: [(StreamKind, [&str; 2]); 3] = [
    (StreamKind::User, ["user_id", "user_offset"]),
    (StreamKind::App, ["app_id", "app_offset"]),
    // All events with such an offset are in the one broadcast stream, whose name is empty.
    (StreamKind::Broadcast, ["''", "broadcast_offset"]),
];

/// Reads a page of an app's events, and their number up to one above the cap.
fn list_queries<'q, D: Dialect>(app: &'q AppId, filter: &'q EventFilter) -> (Statement<'q>, Statement<'q>) {
    let order = order(filter);
    let length = format!("octet_length({})", D::json_text("event_data"));
    let mut query = Statement::new(format!(
        "select * from (select found.*, sum(data_bytes) over ({order}) - data_bytes as bytes_before \
         from (select {}, {length} as data_bytes from platform_events",
        event_columns::<D>()
    ));
    push_conditions(&mut query, app, filter);
    push_position(&mut query, filter);
    query.push(order).push(" limit ").push_bind(i64::from(filter.limit));
    query.push(" offset ").push_bind(filter.offset.cast_signed());
    query.push(format!(") found) sized where bytes_before < {MAX_LIST_BYTES}{order}"));
    // In the order of the list, so that it is counted over the same index.
    let mut count = Statement::new("select count(*) from (select 1 from platform_events");
    push_conditions(&mut count, app, filter);
    count.push(order).push(" limit ").push_bind((TOTAL_CAP + 1).cast_signed()).push(") counted");
    (query, count)
}

/// Reads the pages of one kind of stream: rows of the request's position, the stream's head, two columns more and the
/// event. A page without events is one row without an event. One statement, so heads and events
/// agree.
fn page_queries<'q, D: Dialect>(
    requests: &'q [PageRequest],
    limit: PageLimit,
    kind: StreamKind,
    [name, offset]: [&str; 2],
) -> Vec<Statement<'q>> {
    let mut asked = Rows::new(&[("position", Kind::Big), ("name", Kind::Text), ("start", Kind::Big)]);
    for (position, request) in (0_i64..).zip(requests) {
        if request.stream.kind() == kind {
            asked.push([position.into(), request.stream.name().into(), request.after.cast_signed().into()]);
        }
    }
    let columns = event_columns::<D>();
    let length = format!("octet_length({})", D::json_text("event_data"));
    let after = format!(
        "), read as ( \
           select asked.position as position, {offset} as place, {columns}, \
             sum({length}) over (partition by asked.position order by {offset}) - {length} as bytes_before \
           from asked join platform_events on {name} = asked.name and {offset} > asked.start \
             and {offset} <= coalesce((select ahead.{offset} from platform_events ahead \
               where {ahead_name} = asked.name and ahead.{offset} > asked.start \
               order by ahead.{offset} limit 1 offset {others}), 9223372036854775807)) \
         select asked.position, streams.last_offset, read.* from asked \
         left join streams on streams.kind = '{kind}' and streams.key = asked.name \
         left join read on read.position = asked.position and read.bytes_before < {bytes} \
         order by read.place",
        ahead_name = if kind == StreamKind::Broadcast { name.to_owned() } else { format!("ahead.{name}") },
        others = limit.events.saturating_sub(1),
        bytes = i64::try_from(limit.bytes).unwrap_or(i64::MAX),
        kind = kind.as_str(),
    );
    D::with_rows("with asked (position, name, start) as (", asked, &after)
}

pub(in crate::store) fn head_query(stream: &StreamKey) -> Statement<'_> {
    Statement::new("select last_offset from streams where kind = $1 and key = $2")
        .bind(stream.kind().as_str())
        .bind(stream.name())
}

fn push_conditions<'q>(query: &mut Statement<'q>, app: &'q AppId, filter: &'q EventFilter) {
    query.push(" where app_id = ").push_bind(app.as_str());
    if let Some(category) = filter.category {
        query.push(" and event_category = ").push_bind(category.as_str());
    }
    if let Some(event_type) = &filter.event_type {
        query.push(" and (event_type = ").push_bind(event_type);
        if let Some((category, bare)) = filter.full_type() {
            query.push(" or (event_category = ").push_bind(category.as_str());
            query.push(" and event_type = ").push_bind(bare).push(")");
        }
        query.push(")");
    }
    if let Some(user) = &filter.user_id {
        query.push(" and user_id = ").push_bind(user);
    }
    if let Some(entity) = &filter.entity_id {
        query.push(" and entity_id = ").push_bind(entity);
    }
    // The index has `created_at`, when an event was stored. That is never before its `timestamp`, when it was accepted,
    // and at most `LONGEST_WAIT_MS` later.
    if let Some(start) = filter.start {
        query.push(" and timestamp >= ").push_bind(start).push(" and created_at >= ").push_bind(start);
    }
    if let Some(end) = filter.end {
        let stored = Timestamp::from_unix_ms(end.unix_ms().saturating_add(LONGEST_WAIT_MS));
        query.push(" and timestamp <= ").push_bind(end).push(" and created_at <= ").push_bind(stored);
    }
}

/// The order of a list, newest first, which is that of the index that serves its filter. An app's events of one user are in
/// the same order in both streams.
fn order(filter: &EventFilter) -> &'static str {
    match filter {
        EventFilter { user_id: Some(_), .. } => " order by user_offset desc",
        EventFilter { start: None, end: None, .. } => " order by app_offset desc",
        EventFilter { .. } => " order by created_at desc, app_offset desc",
    }
}

/// Leaves out what stood on earlier pages. `filter.before` has the parts of every order.
fn push_position(query: &mut Statement<'_>, filter: &EventFilter) {
    let Some(before) = filter.before else { return };
    match filter {
        EventFilter { user_id: Some(_), .. } => {
            let offset = before.user_offset.unwrap_or_default();
            query.push(" and user_offset < ").push_bind(offset.cast_signed());
        }
        EventFilter { start: None, end: None, .. } => {
            query.push(" and app_offset < ").push_bind(before.app_offset.cast_signed());
        }
        EventFilter { .. } => {
            query.push(" and (created_at, app_offset) < (").push_bind(before.created_at);
            query.push(", ").push_bind(before.app_offset.cast_signed()).push(")");
        }
    }
}

#[cfg(test)]
mod tests {
    use oriva_hub_actors::model::UserId;
    use sqlx::{Row as _, Sqlite};

    use super::*;
    use crate::store::{EventPosition, Store as _, sqlite::SqliteStore};

    #[tokio::test]
    async fn sqlite_finds_dates_and_users_by_index() {
        let folder = tempfile::tempdir().unwrap();
        let store =
            SqliteStore::open(&format!("sqlite://{}", folder.path().join("hub.db").display()), 2).await.unwrap();
        store.migrate().await.unwrap();
        let app = AppId::parse("a").unwrap();
        let dates = EventFilter { start: Some(Timestamp::now()), limit: 100, ..EventFilter::default() };
        let until = EventFilter { start: None, end: Some(Timestamp::now()), ..dates.clone() };
        let user = UserId::parse("bob").unwrap().as_str().to_owned();
        let of_user = EventFilter { user_id: Some(user), limit: 100, ..EventFilter::default() };
        let before = EventPosition { app_offset: 7, user_offset: Some(7), created_at: Timestamp::now() };
        for (filter, index) in [
            (&dates, "platform_events_app_dates (app_id=? AND created_at>?"),
            (&until, "platform_events_app_dates (app_id=? AND created_at<?"),
            (
                &EventFilter { before: Some(before), ..until.clone() },
                "platform_events_app_dates (app_id=? AND created_at<?",
            ),
            (&of_user, "platform_events_user_offset (user_id=?"),
            (&EventFilter { before: Some(before), ..of_user.clone() }, "platform_events_user_offset (user_id=?"),
            (&EventFilter { limit: 100, ..EventFilter::default() }, "platform_events_app_offset (app_id=?"),
        ] {
            let (mut list, mut count) = list_queries::<Sqlite>(&app, filter);
            for statement in [&mut list, &mut count] {
                statement.sql.insert_str(0, "explain query plan ");
                let mut transaction = store.begin_read(&StreamKey::Broadcast).await.unwrap();
                let rows = Sqlite::fetch_all(&mut transaction, statement.clone()).await.unwrap();
                let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
                let plan = plan.join("\n");
                assert!(plan.contains(index), "{filter:?}: {plan}");
            }
        }
    }
}
