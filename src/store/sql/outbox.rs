//! Outcomes of deliveries, recoveries, and queries about the queue. Claiming stays with each database, because they
//! lock rows differently.

use async_trait::async_trait;
use oriva_hub_actors::{
    model::{AppId, DeliveryId, OwnedWebhook, StreamKey, Timestamp, WebhookId},
    ports::{Attempt, Next},
};
use uuid::Uuid;

use super::{
    dialect::{Commit as _, Dialect, SqlRow as _, SqlStore},
    revisions::raise_webhook_revision,
    rows::{RECOVERY, corrupt_row, owned_webhook_from_row, qualified, recovery_from_row},
    statement::{Kind, Rows, Statement},
};
use crate::store::{
    AfterAttempts, DeliveryRecords, Recovery, StoreError, Webhook,
    webhook::{AttemptSummary, PendingDelivery, Subscriptions, after_attempt, parse_patterns},
};

#[async_trait]
impl<S: SqlStore> DeliveryRecords for S {
    async fn advance_recovery(&self, limit: u32) -> Result<Option<Recovery>, StoreError> {
        let mut transaction = self.begin_write().await?;
        let query = Statement::new(format!(
            "select {}, w.subscribed_events from webhook_recoveries r join app_webhooks w on w.id = r.webhook_id \
             where r.finished_at is null order by r.created_at limit 1{}",
            qualified("r", RECOVERY),
            S::Db::LOCK_R_OR_SKIP
        ));
        let Some(row) = S::Db::fetch_optional(&mut transaction, query).await? else { return Ok(None) };
        let mut recovery = recovery_from_row(&row)?;
        let patterns = parse_patterns(&row.texts(9)?);
        let query = Statement::new(
            "select id, app_offset, event_category || '.' || event_type, created_at >= $5 from platform_events \
             where app_id = $1 and app_offset > $2 and app_offset <= $3 order by app_offset limit $4",
        )
        .bind(recovery.app_id.as_str())
        .bind(recovery.position.cast_signed())
        .bind(recovery.until.cast_signed())
        .bind(i64::from(limit))
        .bind(recovery.since);
        let rows = S::Db::fetch_all(&mut transaction, query).await?;
        let mut missed = Rows::new(&[
            ("id", Kind::Id),
            ("webhook_id", Kind::Id),
            ("app_id", Kind::Text),
            ("event_id", Kind::Id),
            ("event_type", Kind::Text),
        ]);
        for row in &rows {
            let full_type = row.text(2)?;
            // The clocks of nodes differ, so near `since` offsets are not quite in the order of time.
            if row.flag(3)? && patterns.iter().any(|pattern| pattern.matches(&full_type)) {
                missed.push([
                    DeliveryId::generate().0.into(),
                    recovery.webhook_id.0.into(),
                    recovery.app_id.to_string().into(),
                    row.id(0)?.into(),
                    full_type.into(),
                ]);
            }
        }
        let insert = format!("with missed ({}) as (", missed.names());
        let after = format!(
            ") insert into webhook_deliveries as d (id, webhook_id, app_id, event_id, event_type, next_attempt_at, \
             created_at, updated_at) select missed.*, {now}, {now}, {now} from missed where true \
             on conflict (webhook_id, event_id) do update set attempts = 0, next_attempt_at = {now}, updated_at = {now}, \
             status = case when d.status = 'delivering' then d.status else 'pending' end \
             where (d.status in ('failed', 'cancelled') or (d.status in ('pending', 'delivering') and d.attempts > 0)) \
             and not exists (select 1 from webhook_delivery_log l where l.delivery_id = d.id and l.success)",
            now = S::Db::NOW
        );
        recovery.queued += S::Db::execute_each(&mut transaction, S::Db::with_rows(&insert, missed, &after)).await?;
        recovery.position = match rows.last() {
            Some(last) if rows.len() == limit as usize => last.big(1)?,
            _ => recovery.until,
        };
        recovery.finished_at = (recovery.position >= recovery.until).then(Timestamp::now);
        let update =
            Statement::new("update webhook_recoveries set position = $2, queued = $3, finished_at = $4 where id = $1")
                .bind(recovery.id)
                .bind(recovery.position.cast_signed())
                .bind(recovery.queued.cast_signed())
                .bind(recovery.finished_at);
        S::Db::execute(&mut transaction, update).await?;
        transaction.commit().await?;
        Ok(Some(recovery))
    }

    async fn release_deliveries(
        &self,
        id: WebhookId,
        owner: Uuid,
        deliveries: &[DeliveryId],
    ) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.0).collect();
        let mut transaction = self.begin_write().await?;
        for run in S::Db::id_runs(&ids) {
            let mut update = Statement::new(
                "update webhook_deliveries set status = 'pending', lease_owner = null, lease_until = null \
                 where webhook_id = $1 and status = 'delivering' and lease_owner = $2 and ",
            )
            .bind(id.0)
            .bind(owner);
            S::Db::push_any(&mut update, "id", run);
            S::Db::execute(&mut transaction, update).await?;
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
        let Some(first) = attempts.first() else { return Ok(None) };
        let mut transaction = self.begin_write().await?;
        let query = Statement::new(format!(
            "select app_id, consecutive_failures, is_active, disabled_reason from app_webhooks where id = $1{}",
            S::Db::LOCK_FOR_UPDATE
        ));
        let Some(row) = S::Db::fetch_optional(&mut transaction, query.bind(id.0)).await? else { return Ok(None) };
        let app_id = AppId::parse(&row.text(0)?).map_err(corrupt_row)?;
        let failures_before = row.int(1)?;
        let was_active = row.flag(2)?;
        // A caller that lost the answer to its commit records the same attempts again, all of them.
        let repeat = Statement::new("select 1 from webhook_delivery_log where id = $1").bind(first.id);
        if S::Db::fetch_optional(&mut transaction, repeat).await?.is_some() {
            let disabled = row.text_or_null(3)?.filter(|_| !was_active);
            return Ok(Some(AfterAttempts { app_id, failures_before, failures: failures_before, disabled }));
        }
        complete::<S::Db>(&mut transaction, owner, attempts, now).await?;
        insert_log::<S::Db>(&mut transaction, id, &app_id, attempts, now, true).await?;
        let summary = AttemptSummary::from_attempts(attempts);
        let (failures, reason) = summary.judge(failures_before, disable_after);
        let disabled = reason.filter(|_| was_active);
        let update = Statement::new(
            "update app_webhooks set last_delivery_at = $2, \
             last_success_at = case when $3 then $2 else last_success_at end, \
             last_failure_at = case when $4 then $2 else last_failure_at end, consecutive_failures = $5, \
             total_deliveries = total_deliveries + $6, total_failures = total_failures + $7, \
             is_active = is_active and not $8, disabled_reason = coalesce($9, disabled_reason), updated_at = $2 \
             where id = $1",
        )
        .bind(id.0)
        .bind(now)
        .bind(summary.succeeded > 0)
        .bind(summary.failed > 0)
        .bind(i64::from(failures))
        .bind((summary.succeeded + summary.failed).cast_signed())
        .bind(summary.failed.cast_signed())
        .bind(disabled.is_some())
        .bind(&disabled);
        S::Db::execute(&mut transaction, update).await?;
        if disabled.is_some() {
            raise_webhook_revision::<S::Db>(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(Some(AfterAttempts { app_id, failures_before, failures, disabled }))
    }

    async fn log_attempt(&self, webhook: &Webhook, attempt: &Attempt, now: Timestamp) -> Result<(), StoreError> {
        let mut transaction = self.begin_write().await?;
        let attempts = std::slice::from_ref(attempt);
        insert_log::<S::Db>(&mut transaction, webhook.id, &webhook.app_id, attempts, now, false).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn webhooks_with_work(&self, after: Option<WebhookId>, limit: u32) -> Result<Vec<OwnedWebhook>, StoreError> {
        // One index lookup for each active webhook.
        let mut query = Statement::new(
            "select w.app_id, w.id from app_webhooks w where w.is_active and exists (select 1 from webhook_deliveries d \
             where d.webhook_id = w.id and d.status = 'pending')",
        );
        if let Some(after) = after {
            query.push(" and w.id > ").push_bind(after.0);
        }
        query.push(" order by w.id limit ").push_bind(i64::from(limit));
        let rows = self.query_all(&StreamKey::Broadcast, query).await?;
        rows.iter().map(owned_webhook_from_row).collect()
    }

    async fn oldest_due(&self) -> Result<Option<Timestamp>, StoreError> {
        // One index lookup for each active webhook.
        let query = Statement::new(
            "select min(queue.due) from (select (select min(next_attempt_at) from webhook_deliveries d \
             where d.webhook_id = w.id and d.status = 'pending') as due from app_webhooks w where w.is_active) queue",
        );
        self.query_one(query).await?.moment_or_null(0)
    }

    async fn pending_deliveries(&self) -> Result<u64, StoreError> {
        let query = Statement::new("select count(*) from webhook_deliveries where status in ('pending', 'delivering')");
        self.query_one(query).await?.big(0)
    }

    async fn webhook_secrets(&self) -> Result<Vec<(WebhookId, Vec<u8>, Option<Vec<u8>>)>, StoreError> {
        let query = Statement::new("select id, secret, previous_secret from app_webhooks");
        let rows = self.query_all(&StreamKey::Broadcast, query).await?;
        rows.iter().map(|row| Ok((WebhookId(row.id(0)?), row.bytes(1)?, row.bytes_or_null(2)?))).collect()
    }

    async fn reseal_secret(
        &self,
        id: WebhookId,
        was: &[u8],
        secret: &[u8],
        previous: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let mut transaction = self.begin_write().await?;
        let update =
            Statement::new("update app_webhooks set secret = $3, previous_secret = $4 where id = $1 and secret = $2");
        S::Db::execute(&mut transaction, update.bind(id.0).bind(was).bind(secret).bind(previous)).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// What active webhooks subscribe to, read in the transaction that writes the events.
pub(in crate::store) async fn subscriptions<D: Dialect>(
    connection: &mut D::Connection,
    revision: i64,
) -> Result<Subscriptions, StoreError> {
    let query = Statement::new("select id, app_id, subscribed_events from app_webhooks where is_active");
    let rows = D::fetch_all(connection, query).await?;
    let rows = rows
        .iter()
        .map(|row| Ok((WebhookId(row.id(0)?), AppId::parse(&row.text(1)?).map_err(corrupt_row)?, row.texts(2)?)));
    Ok(Subscriptions::new(revision, rows.collect::<Result<_, StoreError>>()?))
}

/// Enqueues deliveries, in the transaction of their events.
pub(in crate::store) async fn insert_deliveries<D: Dialect>(
    connection: &mut D::Connection,
    pending: &[PendingDelivery],
    now: Timestamp,
) -> Result<(), StoreError> {
    let rows = pending_rows(pending, now);
    let insert = format!("with pending ({}) as (", rows.names());
    // Waits for a transaction that is deleting the webhook, and then enqueues nothing for it.
    let after = format!(
        ") insert into webhook_deliveries (id, webhook_id, app_id, event_id, event_type, next_attempt_at, \
         created_at, updated_at) select pending.id, w.id, pending.app_id, pending.event_id, pending.event_type, \
         pending.at, pending.at, pending.at from pending join app_webhooks w on w.id = pending.webhook_id{}",
        D::LOCK_W_SHARED
    );
    D::execute_each(connection, D::with_rows(&insert, rows, &after)).await.map(drop)
}

/// Deliveries to insert, due now.
pub(in crate::store) fn pending_rows(pending: &[PendingDelivery], now: Timestamp) -> Rows<'_> {
    let mut rows = Rows::new(&[
        ("id", Kind::Id),
        ("webhook_id", Kind::Id),
        ("app_id", Kind::Text),
        ("event_id", Kind::Id),
        ("event_type", Kind::Text),
        ("at", Kind::Moment),
    ]);
    for delivery in pending {
        rows.push([
            delivery.id.0.into(),
            delivery.webhook.0.into(),
            delivery.app_id.as_str().into(),
            delivery.event_id.0.into(),
            (&delivery.event_type).into(),
            now.into(),
        ]);
    }
    rows
}

/// Stores the outcome of deliveries. If another node has claimed one meanwhile, only a success is stored. One that was
/// queued again while its attempt was under way begins anew, unless the attempt succeeded.
async fn complete<D: Dialect>(
    connection: &mut D::Connection,
    owner: Uuid,
    attempts: &[Attempt],
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut made = Rows::new(&[
        ("id", Kind::Id),
        ("status", Kind::Text),
        ("attempts", Kind::Small),
        ("due", Kind::Moment),
        ("at", Kind::Moment),
        ("owner", Kind::Id),
    ]);
    for Attempt { delivery, next, .. } in attempts {
        let (status, due) = after_attempt(*next, now);
        made.push([
            delivery.id.0.into(),
            status.as_str().into(),
            delivery.attempt.cast_signed().into(),
            due.into(),
            now.into(),
            owner.into(),
        ]);
    }
    let with = format!("with made ({}) as (", made.names());
    let after = ") update webhook_deliveries as d set \
                 status = case when made.status = 'succeeded' or d.attempts = made.attempts - 1 \
                   then made.status else 'pending' end, \
                 attempts = case when made.status = 'succeeded' or d.attempts = made.attempts - 1 \
                   then made.attempts else d.attempts end, \
                 next_attempt_at = case when d.attempts = made.attempts - 1 then made.due else made.at end, lease_owner = null, lease_until = null, updated_at = made.at from made \
                 where d.id = made.id and (made.status = 'succeeded' or (d.status = 'delivering' and d.lease_owner = made.owner))";
    D::execute_each(connection, D::with_rows(&with, made, after)).await.map(drop)
}

/// Writes attempts to the log. `has_events`: whether their events are stored.
async fn insert_log<D: Dialect>(
    connection: &mut D::Connection,
    webhook: WebhookId,
    app: &AppId,
    attempts: &[Attempt],
    now: Timestamp,
    has_events: bool,
) -> Result<(), StoreError> {
    let mut made = Rows::new(&[
        ("id", Kind::Id),
        ("delivery_id", Kind::Id),
        ("event_id", Kind::Id),
        ("event_type", Kind::Text),
        ("payload", Kind::Json),
        ("status_code", Kind::Small),
        ("response_body", Kind::Text),
        ("response_headers", Kind::Json),
        ("delivery_attempt", Kind::Small),
        ("response_time_ms", Kind::Big),
        ("success", Kind::Flag),
        ("error_message", Kind::Text),
        ("webhook_id", Kind::Id),
        ("app_id", Kind::Text),
        ("delivered_at", Kind::Moment),
        ("has_event", Kind::Flag),
    ]);
    for Attempt { id, delivery, report, next } in attempts {
        let response_time_ms = i32::try_from(report.response_time.as_millis()).unwrap_or(i32::MAX);
        made.push([
            (*id).into(),
            delivery.id.0.into(),
            delivery.event.event().id.0.into(),
            delivery.event.full_type().into(),
            (&report.payload).into(),
            report.status_code.map(u16::cast_signed).into(),
            (&report.response_body).into(),
            (&report.response_headers).into(),
            delivery.attempt.cast_signed().into(),
            i64::from(response_time_ms).into(),
            (*next == Next::Succeeded).into(),
            (&report.error).into(),
            webhook.0.into(),
            app.as_str().to_owned().into(),
            now.into(),
            has_events.into(),
        ]);
    }
    let with = format!("with made ({}) as (", made.names());
    // The log does not refer to an event that was archived meanwhile.
    let after = ") insert into webhook_delivery_log (id, delivery_id, webhook_id, app_id, event_id, event_type, payload, \
                 status_code, response_body, response_headers, delivery_attempt, delivered_at, response_time_ms, success, \
                 error_message) select made.id, made.delivery_id, made.webhook_id, made.app_id, (select e.id from platform_events e \
                 where e.id = made.event_id and made.has_event), made.event_type, made.payload, made.status_code, \
                 made.response_body, made.response_headers, made.delivery_attempt, made.delivered_at, made.response_time_ms, \
                 made.success, made.error_message from made";
    D::execute_each(connection, D::with_rows(&with, made, after)).await.map(drop)
}
