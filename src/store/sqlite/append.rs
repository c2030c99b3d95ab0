//! The writing transaction in SQLite. A batch of events is cut into runs of fixed lengths, so that each insert is one of
//! three prepared statements.

use std::sync::{Arc, PoisonError};

use oriva_hub_actors::model::Timestamp;
use sqlx::{QueryBuilder, Row, SqliteConnection};
use uuid::Uuid;

use super::{
    SqliteStore, notifications,
    outbox::{self, insert_owed},
};
use crate::store::{
    Appended, StoreError, Submission,
    batch::{Batch, EventRow, Numbered, Numbering},
    ip_text,
    webhook::Subscriptions,
};

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
        let numbered = batch.number(raise_streams(&mut transaction, &batch).await?);
        insert_events(&mut transaction, &numbered).await?;
        let owed = self.subscriptions(&mut transaction).await?.owed(numbered.published());
        insert_owed(&mut transaction, &owed, batch.now).await?;
        write_audit(&mut transaction, &batch, &numbered).await?;
        batch.answer(&numbered);
        keep_answers(&mut transaction, &batch).await?;
        transaction.commit().await?;
        Ok(batch.finish(numbered, &owed))
    }

    /// What webhooks subscribe to. Read anew where another revision is in force.
    async fn subscriptions(&self, connection: &mut SqliteConnection) -> Result<Arc<Subscriptions>, StoreError> {
        let revision = outbox::revision(connection).await?;
        let known = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.revision == revision {
            return Ok(known);
        }
        let now = Arc::new(outbox::subscriptions(connection, revision).await?);
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

async fn raise_streams(connection: &mut SqliteConnection, batch: &Batch<'_>) -> Result<Numbering, StoreError> {
    let mut numbering = Numbering::default();
    for ((kind, key), count) in batch.tally() {
        let last: i64 = sqlx::query_scalar(
            "insert into streams (kind, key, last_offset) values (?1, ?2, ?3) \
             on conflict (kind, key) do update set last_offset = last_offset + excluded.last_offset \
             returning last_offset",
        )
        .bind(kind)
        .bind(&key)
        .bind(count.cast_signed())
        .fetch_one(&mut *connection)
        .await?;
        numbering.raised(kind.to_owned(), key, last.unsigned_abs(), count);
    }
    Ok(numbering)
}

/// Rows of one insert, longest first: three statements, each prepared once.
const RUNS: [usize; 3] = [100, 10, 1];

async fn insert_events(connection: &mut SqliteConnection, numbered: &Numbered<'_>) -> Result<(), StoreError> {
    let rows: Vec<&EventRow<'_>> = numbered.events().collect();
    let mut rest = &rows[..];
    for length in RUNS {
        while rest.len() >= length {
            let (run, after) = rest.split_at(length);
            rest = after;
            insert_run(connection, run).await?;
        }
    }
    Ok(())
}

async fn insert_run(connection: &mut SqliteConnection, run: &[&EventRow<'_>]) -> Result<(), StoreError> {
    let mut insert = QueryBuilder::new(
        "insert into platform_events (id, app_id, user_id, event_category, event_type, entity_type, entity_id, \
         event_data, from_platform, app_offset, user_offset, broadcast_offset, ip_address, user_agent, timestamp, \
         created_at) ",
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
            .push_bind(event.created_at.unix_ms());
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
    for EventRow { published, origin } in numbered.audited(batch) {
        sqlx::query(
            "insert into audit_log (id, actor, action, subject, app_id, ip_address, at) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .bind(Uuid::now_v7())
        .bind(&origin.actor)
        .bind(published.full_type())
        .bind(&published.event().entity_id)
        .bind(published.event().app_id.as_str())
        .bind(ip_text(origin.ip))
        .bind(batch.now.unix_ms())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
