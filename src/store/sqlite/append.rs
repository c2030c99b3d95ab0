//! The writing transaction in SQLite, in few statements however many rows.

use std::sync::{Arc, PoisonError};

use oriva_hub_actors::model::Timestamp;
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection, types::Json};
use uuid::Uuid;

use super::{SqliteStore, notifications};
use crate::store::{
    Appended, EventStore, StoreError, Submission,
    batch::{Batch, EventRow, Numbered, Numbering},
    ip_text,
    sql::{
        outbox::{insert_deliveries, subscriptions},
        statement::runs,
    },
    webhook::Subscriptions,
};

#[async_trait::async_trait]
impl EventStore for SqliteStore {
    async fn append(&self, submissions: &[Submission]) -> Result<Vec<Appended>, StoreError> {
        self.write(submissions).await
    }
}

impl SqliteStore {
    pub(super) async fn write(&self, submissions: &[Submission]) -> Result<Vec<Appended>, StoreError> {
        let mut batch = Batch::new(submissions, Timestamp::now());
        let mut transaction = self.begin().await?;
        claim(&mut transaction, &mut batch).await?;
        notifications::create(&mut transaction, &mut batch).await?;
        notifications::change(&mut transaction, &mut batch).await?;
        notifications::delete(&mut transaction, &mut batch).await?;
        notifications::read_all(&mut transaction, &mut batch).await?;
        notifications::expire(&mut transaction, &mut batch).await?;
        let (numbering, revision) = raise_streams(&mut transaction, &batch).await?;
        let numbered = batch.number(numbering);
        insert_events(&mut transaction, &numbered).await?;
        let pending = self.subscriptions(&mut transaction, revision).await?.match_events(numbered.published());
        insert_deliveries::<Sqlite>(&mut transaction, &pending, batch.now).await?;
        write_audit(&mut transaction, &batch, &numbered).await?;
        batch.answer(&numbered);
        keep_answers(&mut transaction, &batch).await?;
        transaction.commit().await?;
        Ok(batch.finish(numbered, &pending))
    }

    /// What webhooks subscribe to. Read anew where another revision is in force.
    async fn subscriptions(
        &self,
        connection: &mut SqliteConnection,
        revision: i64,
    ) -> Result<Arc<Subscriptions>, StoreError> {
        let known = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.revision == revision || revision == 0 {
            return Ok(known);
        }
        let now = Arc::new(subscriptions::<Sqlite>(connection, revision).await?);
        *self.subscriptions.write().unwrap_or_else(PoisonError::into_inner) = now.clone();
        Ok(now)
    }
}

/// Takes every claim, or says what the earlier holder's means.
async fn claim(connection: &mut SqliteConnection, batch: &mut Batch<'_>) -> Result<(), StoreError> {
    for (item, app, claim) in batch.claims() {
        let taken = sqlx::query(
            "insert into idempotency_keys as held (app_id, key, request_hash, response, expires_at) \
             values (?1, ?2, ?3, '', ?4) on conflict (app_id, key) do update \
             set request_hash = excluded.request_hash, response = '', expires_at = excluded.expires_at \
             where held.expires_at <= ?5",
        )
        .bind(app.as_str())
        .bind(&claim.key)
        .bind(&claim.request_hash[..])
        .bind(claim.expires_at.unix_ms())
        .bind(batch.now.unix_ms())
        .execute(&mut *connection)
        .await?;
        if taken.rows_affected() == 0 {
            let held =
                sqlx::query("select request_hash, response from idempotency_keys where app_id = ?1 and key = ?2")
                    .bind(app.as_str())
                    .bind(&claim.key)
                    .fetch_one(&mut *connection)
                    .await?;
            batch.held(item, claim, &held.try_get::<Vec<u8>, _>(0)?, held.try_get(1)?);
        }
    }
    Ok(())
}

/// Keeps the answers for their claims. Where a request came to nothing its claim is let go: the next may succeed.
async fn keep_answers(connection: &mut SqliteConnection, batch: &Batch<'_>) -> Result<(), StoreError> {
    for (app, claim, answer) in batch.kept_answers() {
        let query = match answer {
            Some(_) => sqlx::query("update idempotency_keys set response = ?3 where app_id = ?1 and key = ?2"),
            None => sqlx::query("delete from idempotency_keys where app_id = ?1 and key = ?2 and ?3 is null"),
        };
        query.bind(app.as_str()).bind(&claim.key).bind(answer).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The numbering, and the revision of what webhooks subscribe to (0 where nothing is written). All in one statement: each
/// is a walk to the connection's thread and back, which costs more than its work.
async fn raise_streams(connection: &mut SqliteConnection, batch: &Batch<'_>) -> Result<(Numbering, i64), StoreError> {
    let (mut numbering, mut revision) = (Numbering::default(), 0);
    let counts = batch.stream_counts();
    if counts.is_empty() {
        return Ok((numbering, revision));
    }
    let raised: Vec<(&str, &str, u64)> = counts.iter().map(|((kind, key), count)| (*kind, &**key, *count)).collect();
    let rows = sqlx::query(
        "insert into streams (kind, key, last_offset) \
         select value ->> 0, value ->> 1, value ->> 2 from json_each(?1) where true \
         on conflict (kind, key) do update set last_offset = last_offset + excluded.last_offset \
         returning kind, key, last_offset, \
         (select cast(value as integer) from hub_meta where key = 'webhook_revision')",
    )
    .bind(Json(raised))
    .fetch_all(connection)
    .await?;
    for row in rows {
        let (kind, key, last): (String, String, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let known: &'static str = ["app", "broadcast", "user"].into_iter().find(|known| *known == kind).unwrap_or("");
        let count = counts.get(&(known, key.clone())).copied().unwrap_or(0);
        numbering.raised(kind, key, last.unsigned_abs(), count);
        revision = row.try_get(3)?;
    }
    Ok((numbering, revision))
}

async fn insert_events(connection: &mut SqliteConnection, numbered: &Numbered<'_>) -> Result<(), StoreError> {
    let rows: Vec<&EventRow<'_>> = numbered.events().collect();
    for run in runs(&rows) {
        insert_run(connection, run).await?;
    }
    Ok(())
}

async fn insert_run(connection: &mut SqliteConnection, run: &[&EventRow<'_>]) -> Result<(), StoreError> {
    let mut insert = QueryBuilder::new(
        "insert into platform_events (id, app_id, user_id, event_category, event_type, entity_type, entity_id, \
         event_data, from_platform, app_offset, user_offset, broadcast_offset, ip_address, user_agent, timestamp, \
         created_at, traceparent) ",
    );
    insert.push_values(run, |mut row, EventRow { published, origin }| {
        let event = published.event();
        row.push_bind(event.id.0)
            .push_bind(event.app_id.as_str().to_owned())
            .push_bind(event.user_id.as_ref().map(|user| user.as_str().to_owned()))
            .push_bind(event.category.as_str())
            .push_bind(event.event_type.as_str().to_owned())
            .push_bind(event.entity_type.clone())
            .push_bind(event.entity_id.clone())
            .push_bind(event.data.as_str().to_owned())
            .push_bind(event.from_platform)
            .push_bind(event.offsets.app.cast_signed())
            .push_bind(event.offsets.user.map(u64::cast_signed))
            .push_bind(event.offsets.broadcast.map(u64::cast_signed))
            .push_bind(ip_text(origin.ip))
            .push_bind(origin.user_agent.as_deref().map(str::to_owned))
            .push_bind(event.timestamp.unix_ms())
            .push_bind(event.created_at.unix_ms())
            .push_bind(event.trace.map(|trace| trace.to_string()));
    });
    insert.build().execute(connection).await?;
    Ok(())
}

/// One row a notification that was created or changed, without its content.
async fn write_audit(
    connection: &mut SqliteConnection,
    batch: &Batch<'_>,
    numbered: &Numbered<'_>,
) -> Result<(), StoreError> {
    let rows: Vec<&EventRow<'_>> = numbered.audited(batch).collect();
    for run in runs(&rows) {
        let mut insert =
            QueryBuilder::new("insert into audit_log (id, actor, action, subject, app_id, ip_address, at) ");
        insert.push_values(run, |mut row, EventRow { published, origin }| {
            row.push_bind(Uuid::now_v7())
                .push_bind(origin.actor.clone())
                .push_bind(published.full_type().to_owned())
                .push_bind(published.event().entity_id.clone())
                .push_bind(published.event().app_id.as_str().to_owned())
                .push_bind(ip_text(origin.ip))
                .push_bind(batch.now.unix_ms());
        });
        insert.build().execute(&mut *connection).await?;
    }
    Ok(())
}
