//! The queue of deliveries in PostgreSQL: claimed with row locks, so that nodes do not wait for each other.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use oriva_hub_actors::model::{DeliveryId, OwnedWebhook, Timestamp, WebhookId};
use sqlx_pg::{Postgres, Row as _};
use uuid::Uuid;

use super::PostgresStore;
use crate::store::{
    Claimed, DeliveryQueue, Lease, StoreError,
    sql::{
        dialect::SqlStore as _,
        rows::{WEBHOOK, event_columns, event_from_row, owned_webhook_from_row, webhook_from_row},
        statement::Statement,
    },
};

#[async_trait]
impl DeliveryQueue for PostgresStore {
    async fn claim_deliveries(
        &self,
        id: WebhookId,
        limit: u32,
        lease: Lease,
        now: Timestamp,
    ) -> Result<Option<Claimed>, StoreError> {
        let mut transaction = self.begin_write().await?;
        let row = sqlx_pg::query(&format!("select {WEBHOOK} from app_webhooks where id = $1 and is_active"))
            .bind(id.0)
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let webhook = webhook_from_row(&row)?;
        let rows = sqlx_pg::query(&format!(
            "with due as (select id from webhook_deliveries where webhook_id = $1 and status = 'pending' \
             and next_attempt_at <= $2 order by next_attempt_at limit $3 for update skip locked), \
             claimed as (update webhook_deliveries d set status = 'delivering', lease_owner = $4, \
             lease_until = now() + $5 * interval '1 millisecond' \
             from due where d.id = due.id returning d.id as delivery_id, d.attempts, d.event_id) \
             select claimed.delivery_id, claimed.attempts, {} \
             from claimed left join platform_events on platform_events.id = claimed.event_id order by app_offset",
            event_columns::<Postgres>()
        ))
        .bind(id.0)
        .bind(now.as_datetime())
        .bind(i64::from(limit))
        .bind(lease.owner)
        .bind(lease.length.as_millis() as f64)
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
            deliveries.push((DeliveryId(delivery), attempt, event_from_row(row, 2)?));
        }
        if !lost.is_empty() {
            sqlx_pg::query(
                "update webhook_deliveries set status = 'cancelled', lease_owner = null, \
                         lease_until = null where id = any($1)",
            )
            .bind(&lost)
            .execute(&mut *transaction)
            .await?;
        }
        let next_due: Option<DateTime<Utc>> = sqlx_pg::query_scalar(
            "select min(next_attempt_at) from webhook_deliveries where webhook_id = $1 and status = 'pending'",
        )
        .bind(id.0)
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Some(Claimed { webhook, deliveries, next_due: next_due.map(Timestamp::from) }))
    }

    async fn free_leases(&self) -> Result<Vec<OwnedWebhook>, StoreError> {
        let free = Statement::new(
            "with freed as (update webhook_deliveries set status = 'pending', lease_owner = null, lease_until = null \
             where id in (select id from webhook_deliveries where status = 'delivering' and lease_until <= now() \
             limit 1000 for update skip locked) returning app_id, webhook_id) select distinct app_id, webhook_id from freed",
        );
        let rows = self.run(free).await?;
        rows.iter().map(owned_webhook_from_row).collect()
    }

    async fn free_all_leases(&self) -> Result<(), StoreError> {
        let free = "update webhook_deliveries set status = 'pending', lease_owner = null, lease_until = null \
                    where status = 'delivering'";
        self.run(Statement::new(free)).await.map(drop)
    }
}
