//! Webhooks, as apps manage them.

use async_trait::async_trait;
use oriva_hub_actors::{
    model::{AppId, DeliveryId, StreamKey, Timestamp, WebhookId},
    ports::PayloadForm,
};
use uuid::Uuid;

use super::{
    audit::write_audit,
    dialect::{Commit as _, Dialect, SqlRow as _, SqlStore},
    revisions::raise_webhook_revision,
    rows::{
        ATTEMPT, DELIVERY, RECOVERY, WEBHOOK, attempt_from_row, delivery_from_row, recovery_from_row, webhook_from_row,
    },
    statement::Statement,
};
use crate::store::{
    Audit, DeliveryFilter, DeliveryRow, NewWebhook, Recovery, SecretChange, StoreError, Webhook, WebhookChange,
    WebhookStore,
};

/// Rows deleted by one statement, so that no lock lasts long.
const ROWS_PER_DELETE: u64 = 1000;
/// Clocks of nodes differ by less than this. A recovery looks at events stored this much earlier too.
const CLOCK_SKEW_MS: i64 = 60_000;

#[async_trait]
impl<S: SqlStore> WebhookStore for S {
    async fn create_webhook(
        &self,
        new: &NewWebhook,
        max_per_app: u32,
        audit: &Audit,
    ) -> Result<Option<Webhook>, StoreError> {
        let mut transaction = self.begin_write().await?;
        // One at a time for each app, so that they are counted right.
        let app = Statement::new(format!("select 1 from apps where app_id = $1{}", S::Db::LOCK_FOR_UPDATE));
        S::Db::fetch_optional(&mut transaction, app.bind(new.app_id.as_str())).await?.ok_or(StoreError::InUse)?;
        let count = Statement::new("select count(*) from app_webhooks where app_id = $1");
        if S::Db::fetch_one(&mut transaction, count.bind(new.app_id.as_str())).await?.big(0)? >= max_per_app.into() {
            return Ok(None);
        }
        let insert = Statement::new(format!(
            "insert into app_webhooks (id, app_id, webhook_url, secret, subscribed_events, description, max_retries, \
             retry_backoff_seconds, payload, created_at, updated_at) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, {now}, {now}) \
             returning {WEBHOOK}",
            now = S::Db::NOW
        ));
        let insert = insert
            .bind(new.id.0)
            .bind(new.app_id.as_str())
            .bind(&new.url)
            .bind(&new.secret[..])
            .bind(&new.subscribed_events[..])
            .bind(&new.description)
            .bind(new.max_retries.cast_signed())
            .bind(new.retry_backoff_seconds.cast_signed())
            .bind(new.payload.as_str());
        let row = S::Db::fetch_one(&mut transaction, insert).await?;
        raise_webhook_revision::<S::Db>(&mut transaction).await?;
        write_audit::<S::Db>(&mut transaction, audit, "webhook.create", &new.id.to_string(), &new.app_id).await?;
        transaction.commit().await?;
        webhook_from_row(&row).map(Some)
    }

    async fn webhooks(&self, app: &AppId, after: Option<WebhookId>, limit: u32) -> Result<Vec<Webhook>, StoreError> {
        let mut query = Statement::new(format!("select {WEBHOOK} from app_webhooks where app_id = "));
        query.push_bind(app.as_str());
        if let Some(after) = after {
            query.push(" and id > ").push_bind(after.0);
        }
        query.push(" order by id limit ").push_bind(i64::from(limit));
        let rows = self.query_all(&StreamKey::App(app.clone()), query).await?;
        rows.iter().map(webhook_from_row).collect()
    }

    async fn webhook(&self, app: &AppId, id: WebhookId) -> Result<Option<Webhook>, StoreError> {
        let query = Statement::new(format!("select {WEBHOOK} from app_webhooks where id = $1 and app_id = $2"));
        let query = query.bind(id.0).bind(app.as_str());
        self.query_optional(&StreamKey::App(app.clone()), query).await?.as_ref().map(webhook_from_row).transpose()
    }

    async fn webhook_exists(&self, id: WebhookId) -> Result<bool, StoreError> {
        let query = Statement::new("select 1 from app_webhooks where id = $1").bind(id.0);
        Ok(self.query_optional(&StreamKey::Broadcast, query).await?.is_some())
    }

    async fn update_webhook(
        &self,
        app: &AppId,
        id: WebhookId,
        change: &WebhookChange,
        audit: &Audit,
    ) -> Result<Option<Webhook>, StoreError> {
        let mut transaction = self.begin_write().await?;
        let update = Statement::new(format!(
            "update app_webhooks set webhook_url = coalesce($3, webhook_url), \
             subscribed_events = coalesce($4, subscribed_events), is_active = coalesce($5, is_active), \
             consecutive_failures = case when $5 then 0 else consecutive_failures end, \
             disabled_reason = case when $5 then null else disabled_reason end, \
             description = case when $6 then $7 else description end, max_retries = coalesce($8, max_retries), \
             retry_backoff_seconds = coalesce($9, retry_backoff_seconds), payload = coalesce($10, payload), \
             updated_at = {} \
             where id = $1 and app_id = $2 returning {WEBHOOK}",
            S::Db::NOW
        ));
        let update = update
            .bind(id.0)
            .bind(app.as_str())
            .bind(&change.url)
            .bind(change.subscribed_events.as_deref())
            .bind(change.is_active)
            .bind(change.description.is_some())
            .bind(change.description.as_ref().and_then(|text| text.as_deref()))
            .bind(change.max_retries.map(u16::cast_signed))
            .bind(change.retry_backoff_seconds.map(u16::cast_signed))
            .bind(change.payload.map(PayloadForm::as_str));
        let Some(row) = S::Db::fetch_optional(&mut transaction, update).await? else { return Ok(None) };
        raise_webhook_revision::<S::Db>(&mut transaction).await?;
        write_audit::<S::Db>(&mut transaction, audit, "webhook.update", &id.to_string(), app).await?;
        transaction.commit().await?;
        webhook_from_row(&row).map(Some)
    }

    async fn rotate_secret(
        &self,
        app: &AppId,
        id: WebhookId,
        change: &SecretChange,
        audit: &Audit,
    ) -> Result<Option<Webhook>, StoreError> {
        let mut transaction = self.begin_write().await?;
        let update = Statement::new(format!(
            "update app_webhooks set secret = $3, previous_secret = secret, previous_secret_expires_at = $4, \
             updated_at = {} where id = $1 and app_id = $2 returning {WEBHOOK}",
            S::Db::NOW
        ));
        let update = update.bind(id.0).bind(app.as_str()).bind(&change.secret[..]).bind(change.previous_until);
        let Some(row) = S::Db::fetch_optional(&mut transaction, update).await? else { return Ok(None) };
        write_audit::<S::Db>(&mut transaction, audit, "webhook.rotate_secret", &id.to_string(), app).await?;
        transaction.commit().await?;
        webhook_from_row(&row).map(Some)
    }

    async fn delete_webhook(&self, app: &AppId, id: WebhookId, audit: &Audit) -> Result<bool, StoreError> {
        // First nothing more is enqueued. Then deliveries and log are deleted in steps, so that publishing, which needs a
        // lock on the webhook's row, goes on in between.
        let mut transaction = self.begin_write().await?;
        let stop = Statement::new("update app_webhooks set is_active = false where id = $1 and app_id = $2");
        if S::Db::execute(&mut transaction, stop.bind(id.0).bind(app.as_str())).await? == 0 {
            return Ok(false);
        }
        raise_webhook_revision::<S::Db>(&mut transaction).await?;
        transaction.commit().await?;
        for table in ["webhook_delivery_log", "webhook_deliveries"] {
            loop {
                let mut transaction = self.begin_write().await?;
                let delete = Statement::new(format!(
                    "delete from {table} where id in \
                     (select id from {table} where webhook_id = $1 limit {ROWS_PER_DELETE})"
                ));
                let deleted = S::Db::execute(&mut transaction, delete.bind(id.0)).await?;
                transaction.commit().await?;
                if deleted < ROWS_PER_DELETE {
                    break;
                }
            }
        }
        let mut transaction = self.begin_write().await?;
        let delete = Statement::new("delete from app_webhooks where id = $1 and app_id = $2");
        if S::Db::execute(&mut transaction, delete.bind(id.0).bind(app.as_str())).await? == 0 {
            return Ok(false);
        }
        raise_webhook_revision::<S::Db>(&mut transaction).await?;
        write_audit::<S::Db>(&mut transaction, audit, "webhook.delete", &id.to_string(), app).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn deliveries(
        &self,
        app: &AppId,
        id: WebhookId,
        filter: &DeliveryFilter,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let mut query = Statement::new(format!("select {DELIVERY} from webhook_deliveries where webhook_id = "));
        query.push_bind(id.0).push(" and app_id = ").push_bind(app.as_str());
        if let Some(status) = filter.status {
            query.push(" and status = ").push_bind(status.as_str());
        }
        if let Some(event_type) = &filter.event_type {
            query.push(" and event_type = ").push_bind(event_type);
        }
        if let Some(since) = filter.since {
            query.push(" and created_at >= ").push_bind(since);
        }
        if let Some(after) = filter.after {
            query.push(" and id < ").push_bind(after.0);
        }
        query.push(" order by id desc limit ").push_bind(i64::from(filter.limit));
        let mut transaction = self.begin_read(&StreamKey::App(app.clone())).await?;
        let rows = S::Db::fetch_all(&mut transaction, query).await?;
        let mut deliveries: Vec<DeliveryRow> = rows.iter().map(delivery_from_row).collect::<Result<_, _>>()?;
        let ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.id.0).collect();
        let mut query = Statement::new(format!("select {ATTEMPT} from webhook_delivery_log where "));
        S::Db::push_any(&mut query, "delivery_id", &ids);
        query.push(" order by delivered_at, delivery_attempt");
        let attempts = S::Db::fetch_all(&mut transaction, query).await?;
        transaction.commit().await?;
        for row in &attempts {
            let id = row.id(0)?;
            if let Some(delivery) = deliveries.iter_mut().find(|delivery| delivery.id.0 == id) {
                delivery.log.push(attempt_from_row(row)?);
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
        let mut transaction = self.begin_write().await?;
        // A delivery that is being sent now keeps its status and its attempts.
        let update = Statement::new(format!(
            "update webhook_deliveries set status = case status when 'delivering' then status else 'pending' end, \
             attempts = case status when 'delivering' then attempts else 0 end, next_attempt_at = {now}, \
             updated_at = {now} where id = $1 and webhook_id = $2 and app_id = $3 returning {DELIVERY}",
            now = S::Db::NOW
        ));
        let update = update.bind(delivery.0).bind(id.0).bind(app.as_str());
        let Some(row) = S::Db::fetch_optional(&mut transaction, update).await? else { return Ok(None) };
        write_audit::<S::Db>(&mut transaction, audit, "webhook.redeliver", &delivery.to_string(), app).await?;
        transaction.commit().await?;
        delivery_from_row(&row).map(Some)
    }

    async fn start_recovery(
        &self,
        app: &AppId,
        id: WebhookId,
        since: Timestamp,
        audit: &Audit,
    ) -> Result<Option<Recovery>, StoreError> {
        let mut transaction = self.begin_write().await?;
        // It begins at the first event stored since then, found by the index on created_at.
        let insert = Statement::new(format!(
            "insert into webhook_recoveries (id, webhook_id, app_id, since, position, until_offset, created_at) \
             select $1, w.id, w.app_id, $4, \
             coalesce((select e.app_offset - 1 from platform_events e where e.app_id = w.app_id \
             and e.created_at >= $5 order by e.created_at, e.app_offset limit 1), s.last_offset, 0), \
             coalesce(s.last_offset, 0), {} \
             from app_webhooks w left join streams s on s.kind = 'app' and s.key = w.app_id \
             where w.id = $2 and w.app_id = $3 returning {RECOVERY}",
            S::Db::NOW
        ));
        let insert = insert
            .bind(Uuid::now_v7())
            .bind(id.0)
            .bind(app.as_str())
            .bind(since)
            .bind(Timestamp::from_unix_ms(since.unix_ms().saturating_sub(CLOCK_SKEW_MS)));
        let Some(row) = S::Db::fetch_optional(&mut transaction, insert).await? else { return Ok(None) };
        write_audit::<S::Db>(&mut transaction, audit, "webhook.recover", &id.to_string(), app).await?;
        transaction.commit().await?;
        recovery_from_row(&row).map(Some)
    }

    async fn recovery(&self, app: &AppId, id: WebhookId) -> Result<Option<Recovery>, StoreError> {
        let query = Statement::new(format!(
            "select {RECOVERY} from webhook_recoveries where webhook_id = $1 and app_id = $2 \
             order by created_at desc, id desc limit 1"
        ));
        let query = query.bind(id.0).bind(app.as_str());
        self.query_optional(&StreamKey::App(app.clone()), query).await?.as_ref().map(recovery_from_row).transpose()
    }
}
