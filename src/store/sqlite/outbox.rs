//! The outbox in SQLite: deliveries as they are owed, claimed, and written down.

use async_trait::async_trait;
use oriva_hub_actors::{
    model::{AppId, DeliveryId, Timestamp, WebhookId},
    ports::{Attempt, Next},
};
use sqlx::{QueryBuilder, Row, SqliteConnection, types::Json};
use uuid::Uuid;

use super::{
    SqliteStore,
    append::runs,
    corrupt_row,
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
impl Outbox for SqliteStore {
    async fn advance_recovery(&self, limit: u32) -> Result<Option<Recovery>, StoreError> {
        let now = Timestamp::now();
        let mut transaction = self.begin().await?;
        let open = sqlx::query(
            "select r.id, r.webhook_id, r.app_id, r.since, r.position, r.until_offset, r.queued, r.created_at, \
             r.finished_at, w.subscribed_events from webhook_recoveries r join app_webhooks w on w.id = r.webhook_id \
             where r.finished_at is null order by r.created_at limit 1",
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(open) = open else { return Ok(None) };
        let mut recovery = recovery_of(&open)?;
        let patterns = parse_patterns(&open.try_get::<Json<Vec<String>>, _>(9)?.0);
        let rows = sqlx::query(
            "select id, app_offset, event_category || '.' || event_type, created_at >= ?5 from platform_events \
             where app_id = ?1 and app_offset > ?2 and app_offset <= ?3 order by app_offset limit ?4",
        )
        .bind(recovery.app_id.as_str())
        .bind(recovery.position.cast_signed())
        .bind(recovery.until.cast_signed())
        .bind(i64::from(limit))
        .bind(recovery.since.unix_ms())
        .fetch_all(&mut *transaction)
        .await?;
        for row in &rows {
            let full_type: String = row.try_get(2)?;
            // A clock that was set back leaves offsets and moments in another order.
            if !row.try_get(3)? || !patterns.iter().any(|pattern| pattern.matches(&full_type)) {
                continue;
            }
            let queued = sqlx::query(
                "insert into webhook_deliveries (id, webhook_id, app_id, event_id, event_type, next_attempt_at, \
                 created_at, updated_at) values (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?6) \
                 on conflict (webhook_id, event_id) do update \
                 set status = 'pending', attempts = 0, next_attempt_at = ?6, updated_at = ?6 \
                 where status in ('failed', 'cancelled') and not exists (select 1 from webhook_delivery_log l \
                 where l.delivery_id = webhook_deliveries.id and l.success)",
            )
            .bind(DeliveryId::generate().0)
            .bind(recovery.webhook_id.0)
            .bind(recovery.app_id.as_str())
            .bind(row.try_get::<Uuid, _>(0)?)
            .bind(full_type)
            .bind(now.unix_ms())
            .execute(&mut *transaction)
            .await?;
            recovery.queued += queued.rows_affected();
        }
        recovery.position = match rows.last() {
            Some(last) if rows.len() == limit as usize => last.try_get::<i64, _>(1)?.unsigned_abs(),
            _ => recovery.until,
        };
        recovery.finished_at = (recovery.position >= recovery.until).then_some(now);
        sqlx::query("update webhook_recoveries set position = ?2, queued = ?3, finished_at = ?4 where id = ?1")
            .bind(recovery.id)
            .bind(recovery.position.cast_signed())
            .bind(recovery.queued.cast_signed())
            .bind(recovery.finished_at.map(Timestamp::unix_ms))
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
        let mut transaction = self.begin().await?;
        let row =
            sqlx::query(sqlx::AssertSqlSafe(format!("select {WEBHOOK} from app_webhooks where id = ?1 and is_active")))
                .bind(id.0)
                .fetch_optional(&mut *transaction)
                .await?;
        let Some(row) = row else { return Ok(None) };
        let webhook = webhook_of(&row)?;
        let due = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select due.delivery_id, due.attempts, {EVENT} from (select id as delivery_id, attempts, event_id \
             from webhook_deliveries where webhook_id = ?1 and status = 'pending' \
             and next_attempt_at <= ?2 order by next_attempt_at limit ?3) due \
             left join platform_events on platform_events.id = due.event_id"
        )))
        .bind(id.0)
        .bind(now.unix_ms())
        .bind(i64::from(limit))
        .fetch_all(&mut *transaction)
        .await?;
        let mut deliveries = Vec::with_capacity(due.len());
        let mut lost = Vec::new();
        for row in &due {
            let delivery: Uuid = row.try_get(0)?;
            if row.try_get::<Option<Uuid>, _>(2)?.is_none() {
                // The event is past retention: nothing is left to deliver.
                lost.push(delivery);
                continue;
            }
            let attempt = row.try_get::<i16, _>(1)?.unsigned_abs() + 1;
            deliveries.push((DeliveryId(delivery), attempt, event_at(row, 2)?));
        }
        let claimed: Vec<Uuid> = deliveries.iter().map(|(id, ..)| id.0).collect();
        for (ids, status) in [(claimed, "delivering"), (lost, "cancelled")] {
            for run in runs(&ids) {
                let mut update = QueryBuilder::new("update webhook_deliveries set status = ");
                update.push_bind(status).push(", lease_owner = ").push_bind(lease.owner);
                update.push(", lease_until = ").push_bind(lease.until.unix_ms());
                update.push(", updated_at = ").push_bind(now.unix_ms()).push(" where id in ");
                update.push_tuples(run, |mut row, id| {
                    row.push_bind(id);
                });
                update.build().execute(&mut *transaction).await?;
            }
        }
        deliveries.sort_by_key(|(_, _, event)| event.event().offsets.app);
        let next_due: Option<i64> = sqlx::query_scalar(
            "select min(next_attempt_at) from webhook_deliveries where webhook_id = ?1 and status = 'pending'",
        )
        .bind(id.0)
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Some(Claimed { webhook, deliveries, next_due: next_due.map(Timestamp::from_unix_ms) }))
    }

    async fn release_deliveries(
        &self,
        id: WebhookId,
        owner: Uuid,
        deliveries: &[DeliveryId],
    ) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        for run in runs(deliveries) {
            let mut update = QueryBuilder::new(
                "update webhook_deliveries set status = 'pending', lease_owner = null, lease_until = null \
                 where status = 'delivering' and webhook_id = ",
            );
            update.push_bind(id.0).push(" and lease_owner = ").push_bind(owner).push(" and id in ");
            update.push_tuples(run, |mut row, id| {
                row.push_bind(id.0);
            });
            update.build().execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
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
        let mut transaction = self.begin().await?;
        let row = sqlx::query(
            "select app_id, consecutive_failures, is_active, disabled_reason from app_webhooks where id = ?1",
        )
        .bind(id.0)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let app_id = AppId::parse(row.try_get(0)?).map_err(corrupt_row)?;
        let failures_before = row.try_get::<i32, _>(1)?.unsigned_abs();
        let was_active: bool = row.try_get(2)?;
        if let Some(first) = attempts.first() {
            let is_repeat: bool =
                sqlx::query_scalar("select exists (select 1 from webhook_delivery_log where id = ?1)")
                    .bind(first.id)
                    .fetch_one(&mut *transaction)
                    .await?;
            if is_repeat {
                // Written down before; the answer was lost on its way.
                let disabled = row.try_get::<Option<String>, _>(3)?.filter(|_| !was_active);
                return Ok(Some(AfterAttempts { app_id, failures_before, failures: failures_before, disabled }));
            }
        }
        for run in runs(attempts) {
            complete(&mut transaction, owner, run, now).await?;
        }
        insert_log(&mut transaction, id, &app_id, attempts, now, true).await?;
        let summary = AttemptSummary::from_attempts(attempts);
        let (failures, reason) = summary.judge(failures_before, disable_after);
        let disabled = reason.filter(|_| was_active);
        sqlx::query(
            "update app_webhooks set last_delivery_at = ?2, \
             last_success_at = case when ?3 then ?2 else last_success_at end, \
             last_failure_at = case when ?4 then ?2 else last_failure_at end, consecutive_failures = ?5, \
             total_deliveries = total_deliveries + ?6, total_failures = total_failures + ?7, \
             is_active = is_active and ?8 is null, disabled_reason = coalesce(?8, disabled_reason), updated_at = ?2 \
             where id = ?1",
        )
        .bind(id.0)
        .bind(now.unix_ms())
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
        let mut transaction = self.begin().await?;
        let attempts = std::slice::from_ref(attempt);
        insert_log(&mut transaction, webhook.id, &webhook.app_id, attempts, now, false).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn webhooks_with_work(&self, after: Option<WebhookId>, limit: u32) -> Result<Vec<WebhookId>, StoreError> {
        // One look into each active webhook's own queue.
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "select w.id from app_webhooks w where w.is_active and (?1 is null or w.id > ?1) \
             and exists (select 1 from webhook_deliveries d where d.webhook_id = w.id and d.status = 'pending') \
             order by w.id limit ?2",
        )
        .bind(after.map(|after| after.0))
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        Ok(ids.into_iter().map(WebhookId).collect())
    }

    async fn free_leases(&self, now: Timestamp) -> Result<Vec<WebhookId>, StoreError> {
        // Not `distinct`: for that the planner walks an index that is in that order, past every delivery there is.
        let mut ids: Vec<Uuid> = sqlx::query_scalar(
            "select webhook_id from webhook_deliveries where status = 'delivering' and lease_until <= ?1",
        )
        .bind(now.unix_ms())
        .fetch_all(&self.readers)
        .await?;
        ids.sort_unstable();
        ids.dedup();
        if !ids.is_empty() {
            sqlx::query(
                "update webhook_deliveries set status = 'pending', lease_owner = null, lease_until = null, \
                 updated_at = ?1 where status = 'delivering' and lease_until <= ?1",
            )
            .bind(now.unix_ms())
            .execute(&self.writer)
            .await?;
        }
        Ok(ids.into_iter().map(WebhookId).collect())
    }

    async fn oldest_due(&self) -> Result<Option<Timestamp>, StoreError> {
        // One look into each active webhook's own queue.
        let oldest: Option<i64> = sqlx::query_scalar(
            "select min((select min(next_attempt_at) from webhook_deliveries d where d.webhook_id = w.id \
             and d.status = 'pending')) from app_webhooks w where w.is_active",
        )
        .fetch_one(&self.readers)
        .await?;
        Ok(oldest.map(Timestamp::from_unix_ms))
    }

    async fn pending_deliveries(&self) -> Result<u64, StoreError> {
        let count: i64 =
            sqlx::query_scalar("select count(*) from webhook_deliveries where status in ('pending', 'delivering')")
                .fetch_one(&self.readers)
                .await?;
        Ok(count.unsigned_abs())
    }

    async fn webhook_secrets(&self) -> Result<Vec<(WebhookId, Vec<u8>, Option<Vec<u8>>)>, StoreError> {
        let rows = sqlx::query("select id, secret, previous_secret from app_webhooks").fetch_all(&self.readers).await?;
        rows.iter().map(|row| Ok((WebhookId(row.try_get(0)?), row.try_get(1)?, row.try_get(2)?))).collect()
    }

    async fn reseal_secret(
        &self,
        id: WebhookId,
        was: &[u8],
        secret: &[u8],
        previous: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        sqlx::query("update app_webhooks set secret = ?3, previous_secret = ?4 where id = ?1 and secret = ?2")
            .bind(id.0)
            .bind(was)
            .bind(secret)
            .bind(previous)
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}

/// What active webhooks subscribe to, read in the transaction that writes the events.
pub(super) async fn subscriptions(
    connection: &mut SqliteConnection,
    revision: i64,
) -> Result<Subscriptions, StoreError> {
    let rows = sqlx::query("select id, app_id, subscribed_events from app_webhooks where is_active")
        .fetch_all(connection)
        .await?;
    let rows = rows.iter().map(|row| {
        Ok::<_, StoreError>((
            WebhookId(row.try_get(0)?),
            AppId::parse(row.try_get(1)?).map_err(corrupt_row)?,
            row.try_get::<Json<Vec<String>>, _>(2)?.0,
        ))
    });
    Ok(Subscriptions::new(revision, rows.collect::<Result<_, _>>()?))
}

pub(super) async fn insert_deliveries(
    connection: &mut SqliteConnection,
    pending: &[PendingDelivery],
    now: Timestamp,
) -> Result<(), StoreError> {
    for run in runs(pending) {
        let mut insert = QueryBuilder::new(
            "insert into webhook_deliveries (id, webhook_id, app_id, event_id, event_type, next_attempt_at, \
             created_at, updated_at) ",
        );
        insert.push_values(run, |mut row, pending| {
            row.push_bind(pending.id.0)
                .push_bind(pending.webhook.0)
                .push_bind(pending.app_id.as_str().to_owned())
                .push_bind(pending.event_id.0)
                .push_bind(pending.event_type.clone());
            for _ in 0..3 {
                row.push_bind(now.unix_ms());
            }
        });
        insert.build().execute(&mut *connection).await?;
    }
    Ok(())
}

async fn insert_log(
    connection: &mut SqliteConnection,
    webhook: WebhookId,
    app: &AppId,
    attempts: &[Attempt],
    now: Timestamp,
    has_events: bool,
) -> Result<(), StoreError> {
    for run in runs(attempts) {
        let mut insert = QueryBuilder::new(
            "insert into webhook_delivery_log (id, delivery_id, webhook_id, app_id, event_id, event_type, payload, \
             status_code, response_body, response_headers, delivery_attempt, delivered_at, response_time_ms, success, \
             error_message) ",
        );
        insert.push_values(run, |mut row, Attempt { id, delivery, report, next }| {
            row.push_bind(id).push_bind(delivery.id.0).push_bind(webhook.0).push_bind(app.as_str().to_owned());
            row.push("(select id from platform_events where id = ")
                .push_bind_unseparated(delivery.event.event().id.0)
                .push_unseparated(" and ")
                .push_bind_unseparated(has_events)
                .push_unseparated(")");
            row.push_bind(delivery.event.full_type().to_owned())
                .push_bind(report.payload.clone())
                .push_bind(report.status_code.map(u16::cast_signed))
                .push_bind(report.response_body.clone())
                .push_bind(report.response_headers.clone())
                .push_bind(delivery.attempt.cast_signed())
                .push_bind(now.unix_ms())
                .push_bind(i32::try_from(report.response_time.as_millis()).unwrap_or(i32::MAX))
                .push_bind(*next == Next::Succeeded)
                .push_bind(report.error.clone());
        });
        insert.build().execute(&mut *connection).await?;
    }
    Ok(())
}

/// Where the deliveries stand after these attempts. One that another node took over is that one's, unless it arrived.
async fn complete(
    connection: &mut SqliteConnection,
    owner: Uuid,
    attempts: &[Attempt],
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut update = QueryBuilder::new("with tried (id, status, attempts, due) as (");
    update.push_values(attempts, |mut row, Attempt { delivery, next, .. }| {
        let (status, due) = after_attempt(*next, now);
        row.push_bind(delivery.id.0)
            .push_bind(status.as_str())
            .push_bind(delivery.attempt.cast_signed())
            .push_bind(due.unix_ms());
    });
    update.push(
        ") update webhook_deliveries as d set status = tried.status, attempts = tried.attempts, \
         next_attempt_at = tried.due, lease_owner = null, lease_until = null, updated_at = ",
    );
    update.push_bind(now.unix_ms());
    update.push(
        " from tried where d.id = tried.id and (tried.status = 'succeeded' or (d.status = 'delivering' \
         and d.lease_owner = ",
    );
    update.push_bind(owner).push("))");
    update.build().execute(connection).await?;
    Ok(())
}
