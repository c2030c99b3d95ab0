//! Events in SQLite, as they are read.

use std::sync::Arc;

use async_trait::async_trait;
use oriva_hub_actors::{
    model::{
        AppId, Category, Event, EventId, EventType, JsonObject, Offset, Offsets, StreamKey, Timestamp, TraceParent,
        UserId,
    },
    ports::Page,
    protocol::PublishedEvent,
};
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection, sqlite::SqliteRow};

use super::{SqliteStore, corrupt_row};
use crate::store::{Appended, EventFilter, EventPage, EventStore, StoreError, Submission, TOTAL_CAP};

pub(super) const COLUMNS: &str = "id, app_id, user_id, event_category, event_type, entity_type, entity_id, event_data, \
                       from_platform, app_offset, user_offset, broadcast_offset, timestamp, created_at, traceparent";

#[async_trait]
impl EventStore for SqliteStore {
    async fn append(&self, submissions: &[Submission]) -> Result<Vec<Appended>, StoreError> {
        self.write(submissions).await
    }

    async fn events(&self, app: &AppId, filter: &EventFilter) -> Result<EventPage, StoreError> {
        let mut transaction = self.readers.begin().await?;
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
        let mut transaction = self.readers.begin().await?;
        let head = head(&mut transaction, stream).await?;
        transaction.commit().await?;
        Ok(head)
    }

    async fn heads(&self, streams: &[StreamKey]) -> Result<Vec<Offset>, StoreError> {
        let mut transaction = self.readers.begin().await?;
        let mut heads = Vec::with_capacity(streams.len());
        for stream in streams {
            heads.push(head(&mut transaction, stream).await?);
        }
        transaction.commit().await?;
        Ok(heads)
    }

    async fn page(&self, stream: &StreamKey, after: Offset, limit: usize) -> Result<Page, StoreError> {
        let mut transaction = self.readers.begin().await?;
        let head = head(&mut transaction, stream).await?;
        let condition = match stream {
            StreamKey::User(_) => "user_id = ?1 and user_offset > ?2 order by user_offset",
            StreamKey::App(_) => "app_id = ?1 and app_offset > ?2 order by app_offset",
            StreamKey::Broadcast => "?1 = '' and broadcast_offset > ?2 order by broadcast_offset",
        };
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from platform_events where {condition} limit ?3"
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
             (select app_id, key from idempotency_keys where expires_at <= ?1 limit ?2)",
        )
        .bind(now.unix_ms())
        .bind(i64::from(limit))
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected())
    }
}

async fn head(connection: &mut SqliteConnection, stream: &StreamKey) -> Result<Offset, StoreError> {
    let head: Option<i64> = sqlx::query_scalar("select last_offset from streams where kind = ?1 and key = ?2")
        .bind(stream.kind().as_str())
        .bind(stream.name())
        .fetch_optional(connection)
        .await?;
    Ok(head.unwrap_or(0).unsigned_abs())
}

fn push_conditions(query: &mut QueryBuilder<Sqlite>, app: &AppId, filter: &EventFilter) {
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
        query.push(" and timestamp >= ").push_bind(start.unix_ms());
    }
    if let Some(end) = filter.end {
        query.push(" and timestamp <= ").push_bind(end.unix_ms());
    }
}

fn event_of(row: &SqliteRow) -> Result<Arc<PublishedEvent>, StoreError> {
    event_at(row, 0)
}

/// From the columns that begin at `first`.
pub(super) fn event_at(row: &SqliteRow, first: usize) -> Result<Arc<PublishedEvent>, StoreError> {
    let time = |index: usize| row.try_get(first + index).map(Timestamp::from_unix_ms);
    let offset =
        |index: usize| row.try_get::<Option<i64>, _>(first + index).map(|offset| offset.map(i64::unsigned_abs));
    Ok(PublishedEvent::new(Event {
        id: EventId(row.try_get(first)?),
        app_id: AppId::parse(row.try_get(first + 1)?).map_err(corrupt_row)?,
        user_id: row.try_get::<Option<&str>, _>(first + 2)?.map(UserId::parse).transpose().map_err(corrupt_row)?,
        category: Category::parse(row.try_get(first + 3)?).map_err(corrupt_row)?,
        event_type: EventType::from_store(row.try_get(first + 4)?),
        entity_type: row.try_get(first + 5)?,
        entity_id: row.try_get(first + 6)?,
        data: JsonObject::from_store(row.try_get(first + 7)?),
        from_platform: row.try_get(first + 8)?,
        offsets: Offsets { app: offset(9)?.unwrap_or(0), user: offset(10)?, broadcast: offset(11)? },
        timestamp: time(12)?,
        created_at: time(13)?,
        trace: row.try_get::<Option<&str>, _>(first + 14)?.and_then(TraceParent::parse),
    }))
}
