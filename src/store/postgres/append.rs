//! The writing transaction in PostgreSQL: one statement a table for a whole batch, rows locked in an order that is the
//! same on every node.

use std::sync::{Arc, PoisonError};

use chrono::{DateTime, Utc};
use oriva_hub_actors::model::{Timestamp, UserId};
use sqlx::{PgConnection, Postgres, Row as _};
use uuid::Uuid;

use super::{PostgresStore, notifications};
use crate::store::{
    Appended, EventStore, StoreError, Submission,
    batch::{Batch, EventRow, Numbered, Numbering},
    ip_text,
    sql::outbox::{insert_deliveries, subscriptions},
    webhook::Subscriptions,
};

#[async_trait::async_trait]
impl EventStore for PostgresStore {
    async fn append(&self, submissions: &[Submission]) -> Result<Vec<Appended>, StoreError> {
        self.write(submissions).await
    }
}

impl PostgresStore {
    pub(super) async fn write(&self, submissions: &[Submission]) -> Result<Vec<Appended>, StoreError> {
        let mut batch = Batch::new(submissions, Timestamp::now());
        let mut transaction = self.pool.begin().await?;
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
        insert_deliveries::<Postgres>(&mut transaction, &pending, batch.now).await?;
        write_audit(&mut transaction, &batch, &numbered).await?;
        batch.answer(&numbered);
        keep_answers(&mut transaction, &batch).await?;
        transaction.commit().await?;
        Ok(batch.finish(numbered, &pending))
    }

    /// What webhooks subscribe to. Read anew where another revision is in force, on whichever node it was made.
    async fn subscriptions(
        &self,
        connection: &mut PgConnection,
        revision: i64,
    ) -> Result<Arc<Subscriptions>, StoreError> {
        let known = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.revision == revision || revision == 0 {
            return Ok(known);
        }
        let now = Arc::new(subscriptions::<Postgres>(connection, revision).await?);
        *self.subscriptions.write().unwrap_or_else(PoisonError::into_inner) = now.clone();
        Ok(now)
    }
}

/// Takes every claim, or says what the earlier holder's means. Two nodes that take the same one wait for each other
/// here, so only one of them writes.
async fn claim(connection: &mut PgConnection, batch: &mut Batch<'_>) -> Result<(), StoreError> {
    for (item, app, claim) in batch.claims() {
        let taken = sqlx::query(
            "insert into idempotency_keys as held (app_id, key, request_hash, response, expires_at) \
             values ($1, $2, $3, '', $4) on conflict (app_id, key) do update \
             set request_hash = excluded.request_hash, response = '', expires_at = excluded.expires_at \
             where held.expires_at <= $5",
        )
        .bind(app.as_str())
        .bind(&claim.key)
        .bind(&claim.request_hash[..])
        .bind(claim.expires_at.as_datetime())
        .bind(batch.now.as_datetime())
        .execute(&mut *connection)
        .await?;
        if taken.rows_affected() == 0 {
            let held =
                sqlx::query("select request_hash, response from idempotency_keys where app_id = $1 and key = $2")
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
async fn keep_answers(connection: &mut PgConnection, batch: &Batch<'_>) -> Result<(), StoreError> {
    for (app, claim, answer) in batch.kept_answers() {
        let query = match answer {
            Some(_) => sqlx::query("update idempotency_keys set response = $3 where app_id = $1 and key = $2"),
            None => sqlx::query("delete from idempotency_keys where app_id = $1 and key = $2 and $3::text is null"),
        };
        query.bind(app.as_str()).bind(&claim.key).bind(answer).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The numbering, and the revision of what webhooks subscribe to (0 where nothing is written).
async fn raise_streams(connection: &mut PgConnection, batch: &Batch<'_>) -> Result<(Numbering, i64), StoreError> {
    let (mut numbering, mut revision) = (Numbering::default(), 0);
    let counts = batch.stream_counts();
    if counts.is_empty() {
        return Ok((numbering, revision));
    }
    let (keys, numbers): (Vec<_>, Vec<i64>) = counts.iter().map(|(key, count)| (key, count.cast_signed())).unzip();
    let (kinds, names): (Vec<&str>, Vec<&str>) = keys.into_iter().map(|(kind, name)| (*kind, name.as_str())).unzip();
    let rows = sqlx::query(
        "insert into streams as stream (kind, key, last_offset) \
         select * from unnest($1::text[], $2::text[], $3::bigint[]) as raised (kind, key, count) \
         order by kind collate \"C\", key collate \"C\" \
         on conflict (kind, key) do update set last_offset = stream.last_offset + excluded.last_offset \
         returning kind, key, last_offset, \
         (select value::bigint from hub_meta where key = 'webhook_revision')",
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
        revision = row.try_get(3)?;
    }
    Ok((numbering, revision))
}

async fn insert_events(connection: &mut PgConnection, numbered: &Numbered<'_>) -> Result<(), StoreError> {
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
        trace: Vec<Option<String>>,
    }
    let mut columns = Columns::default();
    for EventRow { published, origin } in numbered.events() {
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
        columns.ip.push(ip_text(origin.ip));
        columns.user_agent.push(origin.user_agent.as_deref());
        columns.timestamp.push(event.timestamp.as_datetime());
        columns.created_at.push(event.created_at.as_datetime());
        columns.trace.push(event.trace.map(|trace| trace.to_string()));
    }
    if columns.id.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into platform_events (id, app_id, user_id, event_category, event_type, entity_type, entity_id, \
         event_data, from_platform, app_offset, user_offset, broadcast_offset, ip_address, user_agent, timestamp, \
         created_at, traceparent) \
         select id, app_id, user_id, category, event_type, entity_type, entity_id, data::jsonb, from_platform, \
         app_offset, user_offset, broadcast_offset, ip::inet, user_agent, at, created_at, trace \
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
         $9::boolean[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[], $14::text[], $15::timestamptz[], \
         $16::timestamptz[], $17::text[]) as event (id, app_id, user_id, category, event_type, entity_type, entity_id, data, \
         from_platform, app_offset, user_offset, broadcast_offset, ip, user_agent, at, created_at, trace)",
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
    .bind(&columns.trace)
    .execute(connection)
    .await?;
    Ok(())
}

/// One row a notification that was created or changed, without its content.
async fn write_audit(
    connection: &mut PgConnection,
    batch: &Batch<'_>,
    numbered: &Numbered<'_>,
) -> Result<(), StoreError> {
    let (mut ids, mut actors, mut actions) = (Vec::new(), Vec::new(), Vec::new());
    let (mut subjects, mut apps, mut ips) = (Vec::new(), Vec::new(), Vec::new());
    for EventRow { published, origin } in numbered.audited(batch) {
        ids.push(Uuid::now_v7());
        actors.push(origin.actor.as_str());
        actions.push(published.full_type());
        subjects.push(published.event().entity_id.as_str());
        apps.push(published.event().app_id.as_str());
        ips.push(ip_text(origin.ip));
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into audit_log (id, actor, action, subject, app_id, ip_address, at) \
         select id, actor, action, subject, app_id, ip::inet, $7 \
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) \
         as entry (id, actor, action, subject, app_id, ip)",
    )
    .bind(&ids)
    .bind(&actors)
    .bind(&actions)
    .bind(&subjects)
    .bind(&apps)
    .bind(&ips)
    .bind(batch.now.as_datetime())
    .execute(connection)
    .await?;
    Ok(())
}
