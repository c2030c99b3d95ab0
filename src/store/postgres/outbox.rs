//! The outbox in PostgreSQL: deliveries as they are owed, claimed, and written down.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use oriva_hub_actors::{
    model::{AppId, DeliveryId, Timestamp, WebhookId},
    ports::{Attempt, Next},
};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{
    PostgresStore, corrupt_row,
    events::{COLUMNS as EVENT, event_at},
    webhooks::{WEBHOOK, recovery_of, webhook_of},
};
use crate::store::{
    Outbox, StoreError,
    webhook::{
        AfterAttempts, AttemptSummary, Claimed, Lease, PendingDelivery, Recovery, Subscriptions, Webhook,
        after_attempt, parse_patterns,
    },
};

#[async_trait]
impl Outbox for PostgresStore {
    async fn advance_recovery(&self, limit: u32) -> Result<Option<Recovery>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let open = sqlx::query(
            "select r.id, r.webhook_id, r.app_id, r.since, r.position, r.until_offset, r.queued, r.created_at, \
             r.finished_at, w.subscribed_events from webhook_recoveries r join app_webhooks w on w.id = r.webhook_id \
             where r.finished_at is null order by r.created_at limit 1 for update of r skip locked",
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(open) = open else { return Ok(None) };
        let mut recovery = recovery_of(&open)?;
        let patterns = parse_patterns(&open.try_get::<Vec<String>, _>(9)?);
        let rows = sqlx::query(
            "select id, app_offset, event_category || '.' || event_type, created_at >= $5 from platform_events \
             where app_id = $1 and app_offset > $2 and app_offset <= $3 order by app_offset limit $4",
        )
        .bind(recovery.app_id.as_str())
        .bind(recovery.position.cast_signed())
        .bind(recovery.until.cast_signed())
        .bind(i64::from(limit))
        .bind(recovery.since.as_datetime())
        .fetch_all(&mut *transaction)
        .await?;
        let (mut ids, mut events, mut types) = (Vec::new(), Vec::new(), Vec::new());
        for row in &rows {
            let full_type: String = row.try_get(2)?;
            // Nodes' clocks differ, so offsets and moments may stand in another order near the beginning.
            if row.try_get(3)? && patterns.iter().any(|pattern| pattern.matches(&full_type)) {
                ids.push(DeliveryId::generate().0);
                events.push(row.try_get::<Uuid, _>(0)?);
                types.push(full_type);
            }
        }
        let queued = sqlx::query(
            "insert into webhook_deliveries as d (id, webhook_id, app_id, event_id, event_type) \
             select owed.id, $4, $5, owed.event_id, owed.event_type \
             from unnest($1::uuid[], $2::uuid[], $3::text[]) as owed (id, event_id, event_type) \
             on conflict (webhook_id, event_id) do update set status = 'pending', attempts = 0, next_attempt_at = now() \
             where d.status in ('failed', 'cancelled') \
             and not exists (select from webhook_delivery_log l where l.delivery_id = d.id and l.success)",
        )
        .bind(&ids)
        .bind(&events)
        .bind(&types)
        .bind(recovery.webhook_id.0)
        .bind(recovery.app_id.as_str())
        .execute(&mut *transaction)
        .await?;
        recovery.queued += queued.rows_affected();
        recovery.position = match rows.last() {
            Some(last) if rows.len() == limit as usize => last.try_get::<i64, _>(1)?.unsigned_abs(),
            _ => recovery.until,
        };
        let is_done = recovery.position >= recovery.until;
        recovery.finished_at = is_done.then(Timestamp::now);
        sqlx::query("update webhook_recoveries set position = $2, queued = $3, finished_at = $4 where id = $1")
            .bind(recovery.id)
            .bind(recovery.position.cast_signed())
            .bind(recovery.queued.cast_signed())
            .bind(recovery.finished_at.map(Timestamp::as_datetime))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Some(recovery))
    }

    async fn claim_deliveries(
        &self,
        id: WebhookId,
        limit: u32,
        lease: Lease,
        now: Timestamp,
    ) -> Result<Option<Claimed>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {WEBHOOK} from app_webhooks w where id = $1 and is_active"
        )))
        .bind(id.0)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let webhook = webhook_of(&row)?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "with due as (select id from webhook_deliveries where webhook_id = $1 and status = 'pending' \
             and next_attempt_at <= $2 order by next_attempt_at limit $3 for update skip locked), \
             claimed as (update webhook_deliveries d set status = 'delivering', lease_owner = $4, lease_until = $5 \
             from due where d.id = due.id returning d.id as delivery_id, d.attempts, d.event_id) \
             select claimed.delivery_id, claimed.attempts, {EVENT} \
             from claimed left join platform_events on platform_events.id = claimed.event_id order by app_offset"
        )))
        .bind(id.0)
        .bind(now.as_datetime())
        .bind(i64::from(limit))
        .bind(lease.owner)
        .bind(lease.until.as_datetime())
        .fetch_all(&mut *transaction)
        .await?;
        let mut deliveries = Vec::with_capacity(rows.len());
        let mut lost = Vec::new();
        for row in &rows {
            let delivery: Uuid = row.try_get(0)?;
            if row.try_get::<Option<Uuid>, _>(2)?.is_none() {
                // The event is past retention: nothing is left to deliver.
                lost.push(delivery);
                continue;
            }
            let attempt = row.try_get::<i16, _>(1)?.unsigned_abs() + 1;
            deliveries.push((DeliveryId(delivery), attempt, event_at(row, 2)?));
        }
        if !lost.is_empty() {
            sqlx::query("update webhook_deliveries set status = 'cancelled', lease_until = null where id = any($1)")
                .bind(&lost)
                .execute(&mut *transaction)
                .await?;
        }
        let next_due: Option<DateTime<Utc>> = sqlx::query_scalar(
            "select min(next_attempt_at) from webhook_deliveries where webhook_id = $1 and status = 'pending'",
        )
        .bind(id.0)
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Some(Claimed { webhook, deliveries, next_due: next_due.map(Timestamp::from) }))
    }

    async fn release_deliveries(
        &self,
        id: WebhookId,
        owner: Uuid,
        deliveries: &[DeliveryId],
    ) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.0).collect();
        sqlx::query(
            "update webhook_deliveries set status = 'pending', lease_owner = null, lease_until = null \
             where id = any($1) and webhook_id = $2 and status = 'delivering' and lease_owner = $3",
        )
        .bind(&ids)
        .bind(id.0)
        .bind(owner)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn record_attempts(
        &self,
        id: WebhookId,
        owner: Uuid,
        attempts: &[Attempt],
        disable_after: u32,
        now: Timestamp,
    ) -> Result<Option<AfterAttempts>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        // Not against those who add deliveries to it.
        let row = sqlx::query(
            "select app_id, consecutive_failures, is_active, disabled_reason from app_webhooks where id = $1 \
             for no key update",
        )
        .bind(id.0)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let app_id = AppId::parse(row.try_get(0)?).map_err(corrupt_row)?;
        let failures_before = row.try_get::<i32, _>(1)?.unsigned_abs();
        let was_active: bool = row.try_get(2)?;
        let ids: Vec<Uuid> = attempts.iter().map(|attempt| attempt.id).collect();
        let is_repeat: bool = sqlx::query_scalar("select exists (select from webhook_delivery_log where id = any($1))")
            .bind(&ids)
            .fetch_one(&mut *transaction)
            .await?;
        if is_repeat {
            // Written down before; the answer was lost on its way.
            let disabled = row.try_get::<Option<String>, _>(3)?.filter(|_| !was_active);
            return Ok(Some(AfterAttempts { app_id, failures_before, failures: failures_before, disabled }));
        }
        complete(&mut transaction, owner, attempts, now).await?;
        insert_log(&mut transaction, id, &app_id, attempts, now, true).await?;
        let summary = AttemptSummary::from_attempts(attempts);
        let (failures, reason) = summary.judge(failures_before, disable_after);
        let disabled = reason.filter(|_| was_active);
        sqlx::query(
            "update app_webhooks set last_delivery_at = $2, \
             last_success_at = case when $3 then $2 else last_success_at end, \
             last_failure_at = case when $4 then $2 else last_failure_at end, consecutive_failures = $5, \
             total_deliveries = total_deliveries + $6, total_failures = total_failures + $7, \
             is_active = is_active and $8::text is null, disabled_reason = coalesce($8, disabled_reason) where id = $1",
        )
        .bind(id.0)
        .bind(now.as_datetime())
        .bind(summary.succeeded > 0)
        .bind(summary.failed > 0)
        .bind(failures.cast_signed())
        .bind((summary.succeeded + summary.failed).cast_signed())
        .bind(summary.failed.cast_signed())
        .bind(&disabled)
        .execute(&mut *transaction)
        .await?;
        if disabled.is_some() {
            Self::raise_webhook_revision(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(Some(AfterAttempts { app_id, failures_before, failures, disabled }))
    }

    async fn log_attempt(&self, webhook: &Webhook, attempt: &Attempt, now: Timestamp) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        let attempts = std::slice::from_ref(attempt);
        insert_log(&mut transaction, webhook.id, &webhook.app_id, attempts, now, false).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn webhooks_with_work(&self, after: Option<WebhookId>, limit: u32) -> Result<Vec<WebhookId>, StoreError> {
        // One look into each active webhook's own queue.
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "select w.id from app_webhooks w where w.is_active and ($1::uuid is null or w.id > $1) \
             and exists (select from webhook_deliveries d where d.webhook_id = w.id and d.status = 'pending') \
             order by w.id limit $2",
        )
        .bind(after.map(|after| after.0))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        Ok(ids.into_iter().map(WebhookId).collect())
    }

    async fn free_leases(&self, now: Timestamp) -> Result<Vec<WebhookId>, StoreError> {
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "with freed as (update webhook_deliveries set status = 'pending', lease_owner = null, lease_until = null \
             where id in (select id from webhook_deliveries where status = 'delivering' and lease_until <= $1 \
             limit 1000 for update skip locked) returning webhook_id) select distinct webhook_id from freed",
        )
        .bind(now.as_datetime())
        .fetch_all(&self.pool)
        .await?;
        Ok(ids.into_iter().map(WebhookId).collect())
    }

    async fn oldest_due(&self) -> Result<Option<Timestamp>, StoreError> {
        // One look into each active webhook's own queue.
        let oldest: Option<DateTime<Utc>> = sqlx::query_scalar(
            "select min(queue.due) from app_webhooks w cross join lateral (select min(next_attempt_at) as due \
             from webhook_deliveries where webhook_id = w.id and status = 'pending') queue where w.is_active",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(oldest.map(Timestamp::from))
    }

    async fn pending_deliveries(&self) -> Result<u64, StoreError> {
        let count: i64 =
            sqlx::query_scalar("select count(*) from webhook_deliveries where status in ('pending', 'delivering')")
                .fetch_one(&self.pool)
                .await?;
        Ok(count.unsigned_abs())
    }

    async fn webhook_secrets(&self) -> Result<Vec<(WebhookId, Vec<u8>, Option<Vec<u8>>)>, StoreError> {
        let rows = sqlx::query("select id, secret, previous_secret from app_webhooks").fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((WebhookId(row.try_get(0)?), row.try_get(1)?, row.try_get(2)?))).collect()
    }

    async fn reseal_secret(
        &self,
        id: WebhookId,
        was: &[u8],
        secret: &[u8],
        previous: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        sqlx::query("update app_webhooks set secret = $3, previous_secret = $4 where id = $1 and secret = $2")
            .bind(id.0)
            .bind(was)
            .bind(secret)
            .bind(previous)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

/// What active webhooks subscribe to, read in the transaction that writes the events.
pub(super) async fn subscriptions(connection: &mut PgConnection, revision: i64) -> Result<Subscriptions, StoreError> {
    let rows = sqlx::query("select id, app_id, subscribed_events from app_webhooks where is_active")
        .fetch_all(connection)
        .await?;
    let rows = rows.iter().map(|row| {
        Ok::<_, StoreError>((
            WebhookId(row.try_get(0)?),
            AppId::parse(row.try_get(1)?).map_err(corrupt_row)?,
            row.try_get(2)?,
        ))
    });
    Ok(Subscriptions::new(revision, rows.collect::<Result<_, _>>()?))
}

pub(super) async fn insert_deliveries(
    connection: &mut PgConnection,
    pending: &[PendingDelivery],
    now: Timestamp,
) -> Result<(), StoreError> {
    if pending.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = pending.iter().map(|pending| pending.id.0).collect();
    let webhooks: Vec<Uuid> = pending.iter().map(|pending| pending.webhook.0).collect();
    let apps: Vec<&str> = pending.iter().map(|pending| pending.app_id.as_str()).collect();
    let events: Vec<Uuid> = pending.iter().map(|pending| pending.event_id.0).collect();
    let types: Vec<&str> = pending.iter().map(|pending| pending.event_type.as_str()).collect();
    // A webhook that is deleted at this moment is waited for, and owed nothing then.
    sqlx::query(
        "insert into webhook_deliveries (id, webhook_id, app_id, event_id, event_type, next_attempt_at, created_at, \
         updated_at) select owed.id, w.id, owed.app_id, owed.event_id, owed.event_type, $6, $6, $6 \
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::text[]) \
         as owed (id, webhook_id, app_id, event_id, event_type) \
         join app_webhooks w on w.id = owed.webhook_id for key share of w",
    )
    .bind(&ids)
    .bind(&webhooks)
    .bind(&apps)
    .bind(&events)
    .bind(&types)
    .bind(now.as_datetime())
    .execute(connection)
    .await?;
    Ok(())
}

/// Where the deliveries stand after these attempts. One that another node took over is that one's, unless it arrived.
async fn complete(
    connection: &mut PgConnection,
    owner: Uuid,
    attempts: &[Attempt],
    now: Timestamp,
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = attempts.iter().map(|attempt| attempt.delivery.id.0).collect();
    let numbers: Vec<i16> = attempts.iter().map(|attempt| attempt.delivery.attempt.cast_signed()).collect();
    let (statuses, due): (Vec<&str>, Vec<DateTime<Utc>>) = attempts
        .iter()
        .map(|attempt| after_attempt(attempt.next, now))
        .map(|(status, due)| (status.as_str(), due.as_datetime()))
        .unzip();
    sqlx::query(
        "update webhook_deliveries d set status = made.status, attempts = made.number, \
         next_attempt_at = made.due, lease_owner = null, lease_until = null \
         from unnest($1::uuid[], $2::smallint[], $3::text[], $4::timestamptz[]) as made (id, number, status, due) \
         where d.id = made.id and (made.status = 'succeeded' or (d.status = 'delivering' and d.lease_owner = $5))",
    )
    .bind(&ids)
    .bind(&numbers)
    .bind(&statuses)
    .bind(&due)
    .bind(owner)
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_log(
    connection: &mut PgConnection,
    webhook: WebhookId,
    app: &AppId,
    attempts: &[Attempt],
    now: Timestamp,
    has_events: bool,
) -> Result<(), StoreError> {
    for Attempt { id, delivery, report, next } in attempts {
        sqlx::query(
            "insert into webhook_delivery_log (id, delivery_id, webhook_id, app_id, event_id, event_type, payload, \
             status_code, response_body, response_headers, delivery_attempt, delivered_at, response_time_ms, success, \
             error_message) values ($1, $2, $3, $4, (select id from platform_events where id = $5 and $15), $6, \
             $7::jsonb, $8, $9, $10::jsonb, $11, $12, $13, $14, $16)",
        )
        .bind(id)
        .bind(delivery.id.0)
        .bind(webhook.0)
        .bind(app.as_str())
        .bind(delivery.event.event().id.0)
        .bind(delivery.event.full_type())
        .bind(&report.payload)
        .bind(report.status_code.map(u16::cast_signed))
        .bind(&report.response_body)
        .bind(&report.response_headers)
        .bind(delivery.attempt.cast_signed())
        .bind(now.as_datetime())
        .bind(i32::try_from(report.response_time.as_millis()).unwrap_or(i32::MAX))
        .bind(*next == Next::Succeeded)
        .bind(has_events)
        .bind(&report.error)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
