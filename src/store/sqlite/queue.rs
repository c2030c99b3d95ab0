//! The queue of deliveries in SQLite.

use async_trait::async_trait;
use oriva_hub_actors::model::{DeliveryId, OwnedWebhook, Timestamp, WebhookId};
use sqlx::{QueryBuilder, Row as _, Sqlite};
use uuid::Uuid;

use super::SqliteStore;
use crate::store::{
    Claimed, DeliveryQueue, Lease, StoreError,
    sql::{
        rows::{WEBHOOK, event_columns, event_from_row, owned_webhook_from_row, webhook_from_row},
        statement::runs,
    },
};

#[async_trait]
impl DeliveryQueue for SqliteStore {
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
        let webhook = webhook_from_row(&row)?;
        let due = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select due.delivery_id, due.attempts, {} from (select id as delivery_id, attempts, event_id \
             from webhook_deliveries where webhook_id = ?1 and status = 'pending' \
             and next_attempt_at <= ?2 order by next_attempt_at limit ?3) due \
             left join platform_events on platform_events.id = due.event_id",
            event_columns::<Sqlite>()
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
            deliveries.push((DeliveryId(delivery), attempt, event_from_row(row, 2)?));
        }
        let claimed: Vec<Uuid> = deliveries.iter().map(|(id, ..)| id.0).collect();
        let until = Timestamp::from(now.as_datetime() + lease.length).unix_ms();
        let held = (Some(lease.owner), Some(until));
        for (ids, status, (owner, until)) in [(claimed, "delivering", held), (lost, "cancelled", (None, None))] {
            for run in runs(&ids) {
                let mut update = QueryBuilder::new("update webhook_deliveries set status = ");
                update.push_bind(status).push(", lease_owner = ").push_bind(owner);
                update.push(", lease_until = ").push_bind(until);
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

    async fn free_leases(&self) -> Result<Vec<OwnedWebhook>, StoreError> {
        let now = Timestamp::now();
        // Without `distinct`: the planner would walk an index in that order, over all deliveries.
        let rows = sqlx::query(
            "select app_id, webhook_id from webhook_deliveries where status = 'delivering' and lease_until <= ?1",
        )
        .bind(now.unix_ms())
        .fetch_all(&self.readers)
        .await?;
        let mut webhooks = rows.iter().map(owned_webhook_from_row).collect::<Result<Vec<_>, _>>()?;
        webhooks.sort_unstable();
        webhooks.dedup();
        if !webhooks.is_empty() {
            sqlx::query(
                "update webhook_deliveries set status = 'pending', lease_owner = null, lease_until = null, \
                 updated_at = ?1 where status = 'delivering' and lease_until <= ?1",
            )
            .bind(now.unix_ms())
            .execute(&self.writer)
            .await?;
        }
        Ok(webhooks)
    }

    async fn free_all_leases(&self) -> Result<(), StoreError> {
        let free = "update webhook_deliveries set status = 'pending', lease_owner = null, lease_until = null, \
                    updated_at = ?1 where status = 'delivering'";
        sqlx::query(free).bind(Timestamp::now().unix_ms()).execute(&self.writer).await?;
        Ok(())
    }
}
