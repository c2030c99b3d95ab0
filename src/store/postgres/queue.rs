//! The queue of deliveries in PostgreSQL: claimed with row locks, so that nodes do not wait for each other.

use async_trait::async_trait;
use oriva_hub_actors::model::{DeliveryId, OwnedWebhook, Timestamp, WebhookId};
use sqlx_pg::{Postgres, Row as _};
use uuid::Uuid;

use super::PostgresStore;
use crate::store::{
    Claimed, DeliveryQueue, Lease, StoreError,
    sql::{
        dialect::SqlRow as _,
        rows::{
            WEBHOOK, WEBHOOK_COLUMNS, event_columns, event_from_row, owned_webhook_from_row, qualified,
            webhook_from_row,
        },
        statement::Statement,
    },
};

/// The place of `next_due` in the answer to a claim: behind the columns of the webhook.
const NEXT_DUE: usize = WEBHOOK_COLUMNS;

#[async_trait]
impl DeliveryQueue for PostgresStore {
    async fn claim_deliveries(
        &self,
        id: WebhookId,
        limit: u32,
        lease: Lease,
        now: Timestamp,
    ) -> Result<Option<Claimed>, StoreError> {
        let claim = Statement::new(format!(
            "with webhook as (select {WEBHOOK} from app_webhooks where id = $1 and is_active), \
             due as (select id, event_id from webhook_deliveries where webhook_id = $1 and status = 'pending' \
             and next_attempt_at <= $2 and exists (select from webhook) order by next_attempt_at limit $3 \
             for update skip locked), \
             claimed as (update webhook_deliveries d set status = case when e.id is null then 'cancelled' else 'delivering' end, \
             lease_owner = case when e.id is not null then $4 end, \
             lease_until = case when e.id is not null then now() + $5 * interval '1 millisecond' end \
             from due left join platform_events e on e.id = due.event_id where d.id = due.id \
             returning d.id as delivery_id, d.attempts, d.event_id), \
             rest as (select min(next_attempt_at) as next_due from webhook_deliveries \
             where webhook_id = $1 and status = 'pending' and id not in (select id from due)), \
             given as (select claimed.delivery_id, claimed.attempts, {} from claimed \
             left join platform_events on platform_events.id = claimed.event_id) \
             select {}, rest.next_due, given.* from webhook cross join rest left join given on true \
             order by given.app_offset",
            event_columns::<Postgres>(),
            qualified("webhook", WEBHOOK)
        ));
        let claim = claim
            .bind(id.0)
            .bind(now)
            .bind(i64::from(limit))
            .bind(lease.owner)
            .bind(i64::try_from(lease.length.as_millis()).unwrap_or(i64::MAX));
        // If its answer is lost, the deliveries come again when the lease has run out.
        let rows = self.run(claim).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let (webhook, next_due) = (webhook_from_row(first)?, first.moment_or_null(NEXT_DUE)?);
        let mut deliveries = Vec::with_capacity(rows.len());
        for row in &rows {
            // Without an event there is nothing claimed, or the event is past retention, and nothing is left to deliver.
            if row.try_get::<Option<Uuid>, _>(NEXT_DUE + 3)?.is_some() {
                let attempt = row.small(NEXT_DUE + 2)? + 1;
                deliveries.push((DeliveryId(row.id(NEXT_DUE + 1)?), attempt, event_from_row(row, NEXT_DUE + 3)?));
            }
        }
        Ok(Some(Claimed { webhook, deliveries, next_due }))
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
