//! Webhooks in SQLite: what apps register and see.

use async_trait::async_trait;
use oriva_hub_actors::model::{AppId, DeliveryId, EventId, Timestamp, WebhookId};
use sqlx::{QueryBuilder, Row, sqlite::SqliteRow, types::Json};
use uuid::Uuid;

use super::{SqliteStore, apps::write_audit, corrupt_row};
use crate::store::{
    Audit, StoreError, WebhookStore,
    webhook::{
        AttemptRow, DeliveryFilter, DeliveryRow, DeliveryStatus, NewWebhook, Recovery, SecretChange, Webhook,
        WebhookChange,
    },
};

/// Everything of [`Webhook`].
pub(super) const WEBHOOK: &str = "id, app_id, webhook_url, secret, previous_secret, \
     previous_secret_expires_at, subscribed_events, is_active, disabled_reason, description, \
     last_delivery_at, last_success_at, last_failure_at, consecutive_failures, total_deliveries, \
     total_failures, max_retries, retry_backoff_seconds, created_at, updated_at";
const DELIVERY: &str = "id, event_id, event_type, status, attempts, next_attempt_at, created_at, updated_at";
/// Rows deleted at once.
const STEP: u64 = 1000;
const RECOVERY: &str = "id, webhook_id, app_id, since, position, until_offset, queued, created_at, finished_at";

#[async_trait]
impl WebhookStore for SqliteStore {
    async fn create_webhook(&self, new: &NewWebhook, audit: &Audit) -> Result<Webhook, StoreError> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "insert into app_webhooks (id, app_id, webhook_url, secret, subscribed_events, description, \
             max_retries, retry_backoff_seconds, created_at, updated_at) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9) returning {WEBHOOK}"
        )))
        .bind(new.id.0)
        .bind(new.app_id.as_str())
        .bind(&new.url)
        .bind(&new.secret)
        .bind(Json(&new.subscribed_events))
        .bind(&new.description)
        .bind(new.max_retries.cast_signed())
        .bind(new.retry_backoff_seconds.cast_signed())
        .bind(Timestamp::now().unix_ms())
        .fetch_one(&mut *transaction)
        .await?;
        Self::raise_webhook_revision(&mut transaction).await?;
        write_audit(&mut transaction, audit, "webhook.create", &new.id.to_string(), &new.app_id).await?;
        transaction.commit().await?;
        webhook_of(&row)
    }

    async fn webhooks(&self, app: &AppId) -> Result<Vec<Webhook>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {WEBHOOK} from app_webhooks where app_id = ?1 order by id"
        )))
        .bind(app.as_str())
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(webhook_of).collect()
    }

    async fn webhook(&self, app: &AppId, id: WebhookId) -> Result<Option<Webhook>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {WEBHOOK} from app_webhooks where id = ?1 and app_id = ?2"
        )))
        .bind(id.0)
        .bind(app.as_str())
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(webhook_of).transpose()
    }

    async fn update_webhook(
        &self,
        app: &AppId,
        id: WebhookId,
        change: &WebhookChange,
        audit: &Audit,
    ) -> Result<Option<Webhook>, StoreError> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "update app_webhooks set webhook_url = coalesce(?3, webhook_url), \
             subscribed_events = coalesce(?4, subscribed_events), is_active = coalesce(?5, is_active), \
             consecutive_failures = case when ?5 then 0 else consecutive_failures end, \
             disabled_reason = case when ?5 then null else disabled_reason end, \
             description = case when ?6 then ?7 else description end, max_retries = coalesce(?8, max_retries), \
             retry_backoff_seconds = coalesce(?9, retry_backoff_seconds), updated_at = ?10 \
             where id = ?1 and app_id = ?2 returning {WEBHOOK}"
        )))
        .bind(id.0)
        .bind(app.as_str())
        .bind(&change.url)
        .bind(change.subscribed_events.as_ref().map(Json))
        .bind(change.is_active)
        .bind(change.description.is_some())
        .bind(change.description.as_ref().and_then(Option::as_ref))
        .bind(change.max_retries.map(u16::cast_signed))
        .bind(change.retry_backoff_seconds.map(u16::cast_signed))
        .bind(Timestamp::now().unix_ms())
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Self::raise_webhook_revision(&mut transaction).await?;
        write_audit(&mut transaction, audit, "webhook.update", &id.to_string(), app).await?;
        transaction.commit().await?;
        webhook_of(&row).map(Some)
    }

    async fn rotate_secret(
        &self,
        app: &AppId,
        id: WebhookId,
        change: &SecretChange,
        audit: &Audit,
    ) -> Result<Option<Webhook>, StoreError> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "update app_webhooks set secret = ?3, previous_secret = secret, previous_secret_expires_at = ?4, updated_at = ?5 \
             where id = ?1 and app_id = ?2 returning {WEBHOOK}"
        )))
        .bind(id.0)
        .bind(app.as_str())
        .bind(&change.secret)
        .bind(change.previous_until.unix_ms())
        .bind(Timestamp::now().unix_ms())
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        write_audit(&mut transaction, audit, "webhook.rotate_secret", &id.to_string(), app).await?;
        transaction.commit().await?;
        webhook_of(&row).map(Some)
    }

    async fn delete_webhook(&self, app: &AppId, id: WebhookId, audit: &Audit) -> Result<bool, StoreError> {
        // What is owed and logged goes in steps: those who publish write in between.
        let mut transaction = self.begin().await?;
        let stopped = sqlx::query("update app_webhooks set is_active = 0 where id = ?1 and app_id = ?2")
            .bind(id.0)
            .bind(app.as_str())
            .execute(&mut *transaction)
            .await?;
        if stopped.rows_affected() == 0 {
            return Ok(false);
        }
        Self::raise_webhook_revision(&mut transaction).await?;
        transaction.commit().await?;
        for table in ["webhook_delivery_log", "webhook_deliveries"] {
            let step =
                format!("delete from {table} where id in (select id from {table} where webhook_id = ?1 limit {STEP})");
            loop {
                let step = sqlx::query(sqlx::AssertSqlSafe(step.clone())).bind(id.0).execute(&self.writer).await?;
                if step.rows_affected() < STEP {
                    break;
                }
            }
        }
        let mut transaction = self.begin().await?;
        let gone = sqlx::query("delete from app_webhooks where id = ?1 and app_id = ?2")
            .bind(id.0)
            .bind(app.as_str())
            .execute(&mut *transaction)
            .await?;
        if gone.rows_affected() == 0 {
            return Ok(false);
        }
        Self::raise_webhook_revision(&mut transaction).await?;
        write_audit(&mut transaction, audit, "webhook.delete", &id.to_string(), app).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn deliveries(
        &self,
        app: &AppId,
        id: WebhookId,
        filter: &DeliveryFilter,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let mut query = QueryBuilder::new(format!("select {DELIVERY} from webhook_deliveries where webhook_id = "));
        query.push_bind(id.0).push(" and app_id = ").push_bind(app.as_str().to_owned());
        if let Some(status) = filter.status {
            query.push(" and status = ").push_bind(status.as_str());
        }
        if let Some(event_type) = &filter.event_type {
            query.push(" and event_type = ").push_bind(event_type.clone());
        }
        if let Some(since) = filter.since {
            query.push(" and created_at >= ").push_bind(since.unix_ms());
        }
        if let Some(after) = filter.after {
            query.push(" and id < ").push_bind(after.0);
        }
        query.push(" order by id desc limit ").push_bind(i64::from(filter.limit));
        let rows = query.build().fetch_all(&self.readers).await?;
        let mut deliveries: Vec<DeliveryRow> = rows.iter().map(delivery_of).collect::<Result<_, _>>()?;
        let mut log = QueryBuilder::new(
            "select delivery_id, delivery_attempt, delivered_at, success, status_code, response_time_ms, \
             response_body, error_message from webhook_delivery_log where delivery_id in (",
        );
        let mut ids = log.separated(", ");
        for delivery in &deliveries {
            ids.push_bind(delivery.id.0);
        }
        log.push(") order by delivered_at, delivery_attempt");
        let log = log.build().fetch_all(&self.readers).await?;
        for row in &log {
            let id: Uuid = row.try_get(0)?;
            if let Some(delivery) = deliveries.iter_mut().find(|delivery| delivery.id.0 == id) {
                delivery.log.push(attempt_of(row)?);
            }
        }
        Ok(deliveries)
    }

    async fn redeliver(
        &self,
        app: &AppId,
        id: WebhookId,
        delivery: DeliveryId,
        audit: &Audit,
    ) -> Result<Option<DeliveryRow>, StoreError> {
        let mut transaction = self.begin().await?;
        // One that is being sent now is on its way already.
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "update webhook_deliveries set status = case status when 'delivering' then status else 'pending' end, \
             attempts = case status when 'delivering' then attempts else 0 end, next_attempt_at = ?4, updated_at = ?4 \
             where id = ?1 and webhook_id = ?2 and app_id = ?3 returning {DELIVERY}"
        )))
        .bind(delivery.0)
        .bind(id.0)
        .bind(app.as_str())
        .bind(Timestamp::now().unix_ms())
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        write_audit(&mut transaction, audit, "webhook.redeliver", &delivery.to_string(), app).await?;
        transaction.commit().await?;
        delivery_of(&row).map(Some)
    }

    async fn start_recovery(
        &self,
        app: &AppId,
        id: WebhookId,
        since: Timestamp,
        audit: &Audit,
    ) -> Result<Option<Recovery>, StoreError> {
        let mut transaction = self.begin().await?;
        let recovery = Uuid::now_v7();
        // From the first event of that moment on, by the index on created_at.
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "insert into webhook_recoveries (id, webhook_id, app_id, since, position, until_offset, created_at) \
             select ?1, w.id, w.app_id, ?4, \
             coalesce((select e.app_offset - 1 from platform_events e where e.app_id = w.app_id and e.created_at >= ?4 - 60000 \
                       order by e.created_at, e.app_offset limit 1), s.last_offset, 0), coalesce(s.last_offset, 0), ?5 \
             from app_webhooks w left join streams s on s.kind = 'app' and s.key = w.app_id \
             where w.id = ?2 and w.app_id = ?3 returning {RECOVERY}"
        )))
        .bind(recovery)
        .bind(id.0)
        .bind(app.as_str())
        .bind(since.unix_ms())
        .bind(Timestamp::now().unix_ms())
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        write_audit(&mut transaction, audit, "webhook.recover", &id.to_string(), app).await?;
        transaction.commit().await?;
        recovery_of(&row).map(Some)
    }

    async fn recovery(&self, app: &AppId, id: WebhookId) -> Result<Option<Recovery>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {RECOVERY} from webhook_recoveries where webhook_id = ?1 and app_id = ?2 \
             order by created_at desc, id desc limit 1"
        )))
        .bind(id.0)
        .bind(app.as_str())
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(recovery_of).transpose()
    }
}

pub(super) fn webhook_of(row: &SqliteRow) -> Result<Webhook, StoreError> {
    let moment = |index: usize| row.try_get::<Option<i64>, _>(index).map(|at| at.map(Timestamp::from_unix_ms));
    Ok(Webhook {
        id: WebhookId(row.try_get(0)?),
        app_id: AppId::parse(row.try_get(1)?).map_err(corrupt_row)?,
        url: row.try_get(2)?,
        secret: row.try_get(3)?,
        previous_secret: row.try_get(4)?,
        previous_secret_expires_at: moment(5)?,
        subscribed_events: row.try_get::<Json<Vec<String>>, _>(6)?.0,
        is_active: row.try_get(7)?,
        disabled_reason: row.try_get(8)?,
        description: row.try_get(9)?,
        last_delivery_at: moment(10)?,
        last_success_at: moment(11)?,
        last_failure_at: moment(12)?,
        consecutive_failures: row.try_get::<i32, _>(13)?.unsigned_abs(),
        total_deliveries: row.try_get::<i64, _>(14)?.unsigned_abs(),
        total_failures: row.try_get::<i64, _>(15)?.unsigned_abs(),
        max_retries: row.try_get::<i16, _>(16)?.unsigned_abs(),
        retry_backoff_seconds: row.try_get::<i16, _>(17)?.unsigned_abs(),
        created_at: moment(18)?.unwrap_or_else(Timestamp::now),
        updated_at: moment(19)?.unwrap_or_else(Timestamp::now),
    })
}

fn delivery_of(row: &SqliteRow) -> Result<DeliveryRow, StoreError> {
    let moment = |index: usize| row.try_get::<i64, _>(index).map(Timestamp::from_unix_ms);
    Ok(DeliveryRow {
        id: DeliveryId(row.try_get(0)?),
        event_id: EventId(row.try_get(1)?),
        event_type: row.try_get(2)?,
        status: DeliveryStatus::from_name(row.try_get(3)?).unwrap_or(DeliveryStatus::Cancelled),
        attempts: row.try_get::<i16, _>(4)?.unsigned_abs(),
        next_attempt_at: moment(5)?,
        created_at: moment(6)?,
        updated_at: moment(7)?,
        log: Vec::new(),
    })
}

fn attempt_of(row: &SqliteRow) -> Result<AttemptRow, StoreError> {
    Ok(AttemptRow {
        number: row.try_get::<i16, _>(1)?.unsigned_abs(),
        at: Timestamp::from_unix_ms(row.try_get(2)?),
        success: row.try_get(3)?,
        status_code: row.try_get::<Option<i16>, _>(4)?.map(i16::unsigned_abs),
        response_time_ms: row.try_get::<Option<i32>, _>(5)?.map(i32::unsigned_abs),
        response_body: row.try_get(6)?,
        error_message: row.try_get(7)?,
    })
}

pub(super) fn recovery_of(row: &SqliteRow) -> Result<Recovery, StoreError> {
    let offset = |index: usize| row.try_get::<i64, _>(index).map(i64::unsigned_abs);
    Ok(Recovery {
        id: row.try_get(0)?,
        webhook_id: WebhookId(row.try_get(1)?),
        app_id: AppId::parse(row.try_get(2)?).map_err(corrupt_row)?,
        since: Timestamp::from_unix_ms(row.try_get(3)?),
        position: offset(4)?,
        until: offset(5)?,
        queued: offset(6)?,
        created_at: Timestamp::from_unix_ms(row.try_get(7)?),
        finished_at: row.try_get::<Option<i64>, _>(8)?.map(Timestamp::from_unix_ms),
    })
}
