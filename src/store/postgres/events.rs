//! Events in PostgreSQL: one statement a table for a whole batch.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use oriva_hub_actors::{
    model::{
        AppId, Category, Event, EventId, EventType, JsonObject, Offset, Offsets, Published, StreamKey, Timestamp,
        UserId,
    },
    ports::Page,
};
use sqlx::{PgConnection, Postgres, QueryBuilder, Row, postgres::PgRow};
use uuid::Uuid;

use super::PostgresStore;
use crate::store::{
    Appended, EventFilter, EventPage, EventStore, StoreError, Submission, TOTAL_CAP,
    append::{Numbering, judge_claim, tally},
    ip_text,
};

const COLUMNS: &str = "id, app_id, user_id, event_category, event_type, entity_type, entity_id, event_data::text, \
                       from_platform, app_offset, user_offset, broadcast_offset, timestamp, created_at";

#[async_trait]
impl EventStore for PostgresStore {
    async fn append(&self, submissions: &[Submission]) -> Result<Vec<Appended>, StoreError> {
        let now = Timestamp::now();
        let mut transaction = self.pool.begin().await?;
        let mut outcomes = claim(&mut transaction, submissions, now).await?;
        let fresh = || submissions.iter().zip(&outcomes).filter(|(_, held)| held.is_none()).map(|(fresh, _)| fresh);
        let mut numbering = raise_streams(&mut transaction, fresh(), now).await?;
        let numbered: Vec<Option<Vec<Arc<Published>>>> = submissions
            .iter()
            .zip(&outcomes)
            .map(|(submission, held)| held.is_none().then(|| numbering.number(submission)))
            .collect();
        insert_events(&mut transaction, submissions, &numbered).await?;
        for ((submission, events), outcome) in submissions.iter().zip(numbered).zip(&mut outcomes) {
            let Some(events) = events else { continue };
            let answer = submission.receipt.answer(&events);
            if let Some(claim) = &submission.claim {
                sqlx::query("update idempotency_keys set response = $3 where app_id = $1 and key = $2")
                    .bind(submission.app_id.as_str())
                    .bind(&claim.key)
                    .bind(&answer)
                    .execute(&mut *transaction)
                    .await?;
            }
            *outcome = Some(Appended::Written { events, answer });
        }
        transaction.commit().await?;
        Ok(outcomes.into_iter().flatten().collect())
    }

    async fn events(&self, app: &AppId, filter: &EventFilter) -> Result<EventPage, StoreError> {
        let mut transaction = self.as_tenant(&StreamKey::App(app.clone())).await?;
        let mut listing = QueryBuilder::new(format!("select {COLUMNS} from platform_events"));
        push_conditions(&mut listing, app, filter);
        if let Some(before) = filter.before {
            listing.push(" and app_offset < ").push_bind(before.cast_signed());
        }
        listing.push(" order by app_offset desc limit ").push_bind(i64::from(filter.limit));
        listing.push(" offset ").push_bind(filter.offset.cast_signed());
        let rows = listing.build().fetch_all(&mut *transaction).await?;

        let mut counting = QueryBuilder::new("select count(*) from (select 1 from platform_events");
        push_conditions(&mut counting, app, filter);
        counting.push(" limit ").push_bind((TOTAL_CAP + 1).cast_signed()).push(") counted");
        let total: i64 = counting.build_query_scalar().fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(EventPage { events: rows.iter().map(event_of).collect::<Result<_, _>>()?, total: total.unsigned_abs() })
    }

    async fn head(&self, stream: &StreamKey) -> Result<Offset, StoreError> {
        let mut transaction = self.as_tenant(stream).await?;
        let head = head(&mut transaction, stream).await?;
        transaction.commit().await?;
        Ok(head)
    }

    async fn page(&self, stream: &StreamKey, after: Offset, limit: usize) -> Result<Page, StoreError> {
        let mut transaction = self.as_tenant(stream).await?;
        // The end first: an event committed in between is then at most missing from it, never from the page.
        let head = head(&mut transaction, stream).await?;
        let condition = match stream {
            StreamKey::User(_) => "user_id = $1 and user_offset > $2 order by user_offset",
            StreamKey::App(_) => "app_id = $1 and app_offset > $2 order by app_offset",
            StreamKey::Broadcast => "$1 = '' and broadcast_offset > $2 order by broadcast_offset",
        };
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from platform_events where {condition} limit $3"
        )))
        .bind(stream.name())
        .bind(after.cast_signed())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let events: Vec<_> = rows.iter().map(event_of).collect::<Result<_, _>>()?;
        let last = events.last().map_or(0, |event| event.offset_in(stream.kind()));
        Ok(Page { events, head: head.max(last) })
    }

    async fn purge_idempotency_keys(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "delete from idempotency_keys where (app_id, key) in \
             (select app_id, key from idempotency_keys where expires_at <= $1 limit $2 for update skip locked)",
        )
        .bind(now.as_datetime())
        .bind(i64::from(limit))
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}

/// Takes every claim, or says what the earlier holder's means. Two nodes that take the same one wait for each other
/// here, so only one of them writes.
async fn claim(
    connection: &mut PgConnection,
    submissions: &[Submission],
    now: Timestamp,
) -> Result<Vec<Option<Appended>>, StoreError> {
    let mut outcomes = vec![None; submissions.len()];
    for (submission, outcome) in submissions.iter().zip(&mut outcomes) {
        let Some(claim) = &submission.claim else { continue };
        let taken = sqlx::query(
            "insert into idempotency_keys as held (app_id, key, request_hash, response, expires_at) \
             values ($1, $2, $3, '', $4) on conflict (app_id, key) do update \
             set request_hash = excluded.request_hash, response = '', expires_at = excluded.expires_at \
             where held.expires_at <= $5",
        )
        .bind(submission.app_id.as_str())
        .bind(&claim.key)
        .bind(&claim.request_hash[..])
        .bind(claim.expires_at.as_datetime())
        .bind(now.as_datetime())
        .execute(&mut *connection)
        .await?;
        if taken.rows_affected() == 0 {
            let held =
                sqlx::query("select request_hash, response from idempotency_keys where app_id = $1 and key = $2")
                    .bind(submission.app_id.as_str())
                    .bind(&claim.key)
                    .fetch_one(&mut *connection)
                    .await?;
            *outcome = Some(judge_claim(claim, &held.try_get::<Vec<u8>, _>(0)?, held.try_get(1)?));
        }
    }
    Ok(outcomes)
}

async fn raise_streams(
    connection: &mut PgConnection,
    submissions: impl Iterator<Item = &Submission>,
    now: Timestamp,
) -> Result<Numbering, StoreError> {
    let mut numbering = Numbering::new(now);
    let counts = tally(submissions);
    if counts.is_empty() {
        return Ok(numbering);
    }
    let (keys, numbers): (Vec<_>, Vec<i64>) = counts.iter().map(|(key, count)| (key, count.cast_signed())).unzip();
    let (kinds, names): (Vec<&str>, Vec<&str>) = keys.into_iter().map(|(kind, name)| (*kind, name.as_str())).unzip();
    let rows = sqlx::query(
        "insert into streams as stream (kind, key, last_offset) \
         select * from unnest($1::text[], $2::text[], $3::bigint[]) as raised (kind, key, count) \
         order by kind collate \"C\", key collate \"C\" \
         on conflict (kind, key) do update set last_offset = stream.last_offset + excluded.last_offset \
         returning kind, key, last_offset",
    )
    .bind(&kinds)
    .bind(&names)
    .bind(&numbers)
    .fetch_all(connection)
    .await?;
    for row in rows {
        let (kind, key): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let kind: &'static str = ["app", "broadcast", "user"].into_iter().find(|known| *known == kind).unwrap_or("");
        let count = counts.get(&(kind, key.clone())).copied().unwrap_or(0);
        numbering.raised(kind.to_owned(), key, row.try_get::<i64, _>(2)?.unsigned_abs(), count);
    }
    Ok(numbering)
}

async fn insert_events(
    connection: &mut PgConnection,
    submissions: &[Submission],
    numbered: &[Option<Vec<Arc<Published>>>],
) -> Result<(), StoreError> {
    #[derive(Default)]
    struct Columns<'a> {
        id: Vec<Uuid>,
        app_id: Vec<&'a str>,
        user_id: Vec<Option<&'a str>>,
        category: Vec<&'a str>,
        event_type: Vec<&'a str>,
        entity_type: Vec<&'a str>,
        entity_id: Vec<&'a str>,
        data: Vec<&'a str>,
        from_platform: Vec<bool>,
        app_offset: Vec<i64>,
        user_offset: Vec<Option<i64>>,
        broadcast_offset: Vec<Option<i64>>,
        ip: Vec<Option<String>>,
        user_agent: Vec<Option<&'a str>>,
        timestamp: Vec<DateTime<Utc>>,
        created_at: Vec<DateTime<Utc>>,
    }
    let mut columns = Columns::default();
    for (submission, published) in submissions.iter().zip(numbered) {
        for (new, published) in submission.events.iter().zip(published.iter().flatten()) {
            let event = published.event();
            columns.id.push(event.id.0);
            columns.app_id.push(event.app_id.as_str());
            columns.user_id.push(event.user_id.as_ref().map(UserId::as_str));
            columns.category.push(event.category.as_str());
            columns.event_type.push(event.event_type.as_str());
            columns.entity_type.push(&event.entity_type);
            columns.entity_id.push(&event.entity_id);
            columns.data.push(event.data.as_str());
            columns.from_platform.push(event.from_platform);
            columns.app_offset.push(event.offsets.app.cast_signed());
            columns.user_offset.push(event.offsets.user.map(u64::cast_signed));
            columns.broadcast_offset.push(event.offsets.broadcast.map(u64::cast_signed));
            columns.ip.push(ip_text(new.ip));
            columns.user_agent.push(new.user_agent.as_deref());
            columns.timestamp.push(event.timestamp.as_datetime());
            columns.created_at.push(event.created_at.as_datetime());
        }
    }
    if columns.id.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into platform_events (id, app_id, user_id, event_category, event_type, entity_type, entity_id, \
         event_data, from_platform, app_offset, user_offset, broadcast_offset, ip_address, user_agent, timestamp, \
         created_at) \
         select id, app_id, user_id, category, event_type, entity_type, entity_id, data::jsonb, from_platform, \
         app_offset, user_offset, broadcast_offset, ip::inet, user_agent, at, created_at \
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
         $9::boolean[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[], $14::text[], $15::timestamptz[], \
         $16::timestamptz[]) as event (id, app_id, user_id, category, event_type, entity_type, entity_id, data, \
         from_platform, app_offset, user_offset, broadcast_offset, ip, user_agent, at, created_at)",
    )
    .bind(&columns.id)
    .bind(&columns.app_id)
    .bind(&columns.user_id)
    .bind(&columns.category)
    .bind(&columns.event_type)
    .bind(&columns.entity_type)
    .bind(&columns.entity_id)
    .bind(&columns.data)
    .bind(&columns.from_platform)
    .bind(&columns.app_offset)
    .bind(&columns.user_offset)
    .bind(&columns.broadcast_offset)
    .bind(&columns.ip)
    .bind(&columns.user_agent)
    .bind(&columns.timestamp)
    .bind(&columns.created_at)
    .execute(connection)
    .await?;
    Ok(())
}

async fn head(connection: &mut PgConnection, stream: &StreamKey) -> Result<Offset, StoreError> {
    let head: Option<i64> = sqlx::query_scalar("select last_offset from streams where kind = $1 and key = $2")
        .bind(stream.kind().as_str())
        .bind(stream.name())
        .fetch_optional(connection)
        .await?;
    Ok(head.unwrap_or(0).unsigned_abs())
}

fn push_conditions(query: &mut QueryBuilder<Postgres>, app: &AppId, filter: &EventFilter) {
    query.push(" where app_id = ").push_bind(app.as_str().to_owned());
    if let Some(category) = filter.category {
        query.push(" and event_category = ").push_bind(category.as_str());
    }
    if let Some(event_type) = &filter.event_type {
        query.push(" and (event_type = ").push_bind(event_type.clone());
        if let Some((category, bare)) = filter.full_type() {
            query.push(" or (event_category = ").push_bind(category.as_str());
            query.push(" and event_type = ").push_bind(bare.to_owned()).push(")");
        }
        query.push(")");
    }
    if let Some(user) = &filter.user_id {
        query.push(" and user_id = ").push_bind(user.clone());
    }
    if let Some(entity) = &filter.entity_id {
        query.push(" and entity_id = ").push_bind(entity.clone());
    }
    if let Some(start) = filter.start {
        query.push(" and timestamp >= ").push_bind(start.as_datetime());
    }
    if let Some(end) = filter.end {
        query.push(" and timestamp <= ").push_bind(end.as_datetime());
    }
}

fn event_of(row: &PgRow) -> Result<Arc<Published>, StoreError> {
    let damaged = |error: oriva_hub_actors::model::Invalid| StoreError::Failed(sqlx::Error::Decode(Box::new(error)));
    let time = |index: usize| row.try_get::<DateTime<Utc>, _>(index).map(Timestamp::from);
    let offset = |index: usize| row.try_get::<Option<i64>, _>(index).map(|offset| offset.map(i64::unsigned_abs));
    Ok(Published::new(Event {
        id: EventId(row.try_get(0)?),
        app_id: AppId::parse(row.try_get(1)?).map_err(damaged)?,
        user_id: row.try_get::<Option<&str>, _>(2)?.map(UserId::parse).transpose().map_err(damaged)?,
        category: Category::parse(row.try_get(3)?).map_err(damaged)?,
        event_type: EventType::from_store(row.try_get(4)?),
        entity_type: row.try_get(5)?,
        entity_id: row.try_get(6)?,
        data: JsonObject::from_store(row.try_get(7)?),
        from_platform: row.try_get(8)?,
        offsets: Offsets { app: offset(9)?.unwrap_or(0), user: offset(10)?, broadcast: offset(11)? },
        timestamp: time(12)?,
        created_at: time(13)?,
    }))
}
