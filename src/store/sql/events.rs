//! Events and streams, as they are read.

use async_trait::async_trait;
use oriva_hub_actors::{
    model::{AppId, Offset, StreamKey, Timestamp},
    ports::Page,
};

use super::{
    dialect::{Dialect, SqlRow as _, SqlStore},
    rows::{event_columns, event_from_row},
    statement::{Kind, Rows, Statement},
};
use crate::store::{EventFilter, EventPage, EventReader, StoreError, TOTAL_CAP};

#[async_trait]
impl<S: SqlStore> EventReader for S {
    async fn events(&self, app: &AppId, filter: &EventFilter) -> Result<EventPage, StoreError> {
        let mut query = Statement::new(format!("select {} from platform_events", event_columns::<S::Db>()));
        push_conditions(&mut query, app, filter);
        if let Some(before) = filter.before {
            query.push(" and app_offset < ").push_bind(before.cast_signed());
        }
        query.push(" order by app_offset desc limit ").push_bind(i64::from(filter.limit));
        query.push(" offset ").push_bind(filter.offset.cast_signed());
        let mut count = Statement::new("select count(*) from (select 1 from platform_events");
        push_conditions(&mut count, app, filter);
        count.push(" limit ").push_bind((TOTAL_CAP + 1).cast_signed()).push(") counted");
        let mut transaction = self.begin_read(&StreamKey::App(app.clone())).await?;
        let rows = S::Db::fetch_all(&mut transaction, query).await?;
        let total = S::Db::fetch_one(&mut transaction, count).await?.big(0)?;
        transaction.commit().await?;
        let events = rows.iter().map(|row| event_from_row(row, 0)).collect::<Result<_, _>>()?;
        Ok(EventPage { events, total })
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

    async fn page(&self, stream: &StreamKey, after: Offset, limit: usize) -> Result<Page, StoreError> {
        let condition = match stream {
            StreamKey::User(_) => "user_id = $1 and user_offset > $2 order by user_offset",
            StreamKey::App(_) => "app_id = $1 and app_offset > $2 order by app_offset",
            StreamKey::Broadcast => "$1 = '' and broadcast_offset > $2 order by broadcast_offset",
        };
        let columns = event_columns::<S::Db>();
        let query = Statement::new(format!("select {columns} from platform_events where {condition} limit $3"))
            .bind(stream.name())
            .bind(after.cast_signed())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let mut transaction = self.begin_read(stream).await?;
        // The head first: an event committed in between is then missing from it at most, never from the page.
        let head = S::Db::fetch_optional(&mut transaction, head_query(stream)).await?;
        let head = head.map_or(Ok(0), |row| row.big(0))?;
        let rows = S::Db::fetch_all(&mut transaction, query).await?;
        transaction.commit().await?;
        let events: Vec<_> = rows.iter().map(|row| event_from_row(row, 0)).collect::<Result<_, _>>()?;
        let last = events.last().map_or(0, |event| event.offset_in(stream.kind()));
        Ok(Page { events, head: head.max(last) })
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

fn head_query(stream: &StreamKey) -> Statement<'_> {
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
    if let Some(start) = filter.start {
        query.push(" and timestamp >= ").push_bind(start);
    }
    if let Some(end) = filter.end {
        query.push(" and timestamp <= ").push_bind(end);
    }
}
