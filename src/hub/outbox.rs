//! Implements the queue of the webhook actors with the store: claims under this node's name, opens secrets, and logs
//! failing webhooks.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use oriva_hub_actors::{
    Realtime,
    model::{DeliveryId, EventPattern, Timestamp, WebhookId, unmatchable_patterns},
    ports::{Attempt, Backoff, Claim, Deliveries, Delivery, SigningSecret, Target, Unavailable},
};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    auth::Sealer,
    store::{AfterAttempts, Lease, Store, StoreError, Webhook, within_deadline},
};

/// Webhooks read by one query. A sweep reads page after page until it has all.
const WEBHOOKS_PER_QUERY: u32 = 100;
/// Greatest number of claims and records at once. A thousand busy endpoints must leave database connections for
/// publishing.
const AT_ONCE: usize = 4;
/// Warnings, in percent of the failures that disable a webhook.
const WARNINGS: [u32; 3] = [50, 75, 90];

/// Settings (section `webhooks` of the configuration).
#[derive(Debug, Clone, Copy)]
pub struct OutboxConfig {
    /// Length of a lease. Longer than an attempt can take.
    pub lease: Duration,
    /// Failures in a row that disable a webhook.
    pub disable_after: u32,
}

/// The outbox of one node.
pub struct StoreOutbox {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    realtime: Realtime,
    config: OutboxConfig,
    node: Uuid,
    turns: Semaphore,
}

impl StoreOutbox {
    /// Deliveries of `store`, claimed in this node's name.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, sealer: Arc<Sealer>, realtime: Realtime, config: OutboxConfig) -> Self {
        Self { store, sealer, realtime, config, node: Uuid::now_v7(), turns: Semaphore::new(AT_ONCE) }
    }

    async fn ask<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, Unavailable> {
        let _turn = self.turns.acquire().await.map_err(|_| Unavailable)?;
        within_deadline(&*self.store, question).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "outbox unavailable");
            Unavailable
        })
    }

    /// Logs what attempts did to their webhook.
    fn report(&self, webhook: WebhookId, after: &AfterAttempts) {
        let AfterAttempts { app_id, failures_before, failures, disabled } = after;
        if let Some(reason) = disabled {
            tracing::error!(
                webhook_id = %webhook,
                %app_id,
                reason,
                "webhook disabled; its deliveries are kept until the app enables it again (PATCH is_active)"
            );
            self.realtime.send_webhook_disabled(app_id, webhook, reason);
            return;
        }
        for share in WARNINGS {
            let at = warns_at(share, self.config.disable_after);
            if *failures_before < at && at <= *failures {
                let (disabled_at, consecutive_failures) = (self.config.disable_after, failures);
                tracing::warn!(webhook_id = %webhook, %app_id, consecutive_failures, disabled_at, "webhook keeps failing");
            }
        }
    }
}

/// Number of failures in a row for a warning of `share` percent.
fn warns_at(share: u32, disable_after: u32) -> u32 {
    disable_after.saturating_mul(share).div_ceil(100)
}

/// The warning for a webhook that keeps failing, or whose patterns can match no event.
#[must_use]
pub fn warning(webhook: &Webhook, disable_after: u32) -> Option<String> {
    let failures = webhook.consecutive_failures;
    let fails = webhook.is_active && failures >= warns_at(WARNINGS[0], disable_after);
    let failing =
        fails.then(|| format!("{failures} attempts failed in a row; at {disable_after} the webhook is disabled"));
    let patterns: Vec<_> = webhook.subscribed_events.iter().flat_map(|text| EventPattern::parse(text)).collect();
    let warnings: Vec<_> = failing.into_iter().chain(unmatchable_patterns(&patterns)).collect();
    (!warnings.is_empty()).then(|| warnings.join("; "))
}

/// The URL and opened secrets of a webhook.
pub(super) fn target(webhook: &Webhook, sealer: &Sealer, now: Timestamp) -> Option<Target> {
    let owner = webhook.id.0.as_bytes();
    let previous = match (&webhook.previous_secret, webhook.previous_secret_expires_at) {
        (Some(secret), Some(until)) if until > now => Some(secret),
        _ => None,
    };
    let mut secrets = Vec::new();
    for sealed in [Some(&webhook.secret), previous].into_iter().flatten() {
        match sealer.open(sealed, owner) {
            Ok(secret) => secrets.push(SigningSecret(secret)),
            Err(error) => {
                tracing::error!(
                    webhook_id = %webhook.id,
                    %error,
                    "webhook secret cannot be opened; configure the key in auth.previous_encryption_keys or rotate the secret"
                );
            }
        }
    }
    (!secrets.is_empty()).then(|| Target {
        webhook: webhook.id,
        app: webhook.app_id.clone(),
        url: webhook.url.clone(),
        secrets,
        backoff: Backoff {
            first: Duration::from_secs(webhook.retry_backoff_seconds.into()),
            retries: webhook.max_retries,
        },
    })
}

#[async_trait]
impl Deliveries for StoreOutbox {
    async fn claim(&self, webhook: WebhookId, limit: usize) -> Result<Claim, Unavailable> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let claim = async {
            // When its turn has come: the lease is for the attempt and not for the wait before it.
            let now = Timestamp::now();
            let lease = Lease { owner: self.node, until: Timestamp::from(now.as_datetime() + self.config.lease) };
            self.store.claim_deliveries(webhook, limit, lease, now).await
        };
        let Some(claimed) = self.ask(claim).await? else { return Ok(Claim::default()) };
        let Some(target) = target(&claimed.webhook, &self.sealer, Timestamp::now()) else {
            return Ok(Claim::default());
        };
        let until = |moment: Timestamp| {
            Duration::from_millis(u64::try_from(moment.unix_ms() - Timestamp::now().unix_ms()).unwrap_or(0))
        };
        Ok(Claim {
            target: Some(Arc::new(target)),
            deliveries: claimed
                .deliveries
                .into_iter()
                .map(|(id, attempt, event)| Delivery { id, attempt, event })
                .collect(),
            next_due: claimed.next_due.map(until),
        })
    }

    async fn record(&self, webhook: WebhookId, attempts: &[Attempt]) -> Result<(), Unavailable> {
        let record = async {
            let now = Timestamp::now();
            self.store.record_attempts(webhook, self.node, attempts, self.config.disable_after, now).await
        };
        if let Some(after) = self.ask(record).await? {
            self.report(webhook, &after);
        }
        Ok(())
    }

    async fn release(&self, webhook: WebhookId, deliveries: &[DeliveryId]) -> Result<(), Unavailable> {
        self.ask(self.store.release_deliveries(webhook, self.node, deliveries)).await
    }

    async fn with_work(&self) -> Result<Vec<WebhookId>, Unavailable> {
        let mut all: Vec<WebhookId> = Vec::new();
        loop {
            let page = self.ask(self.store.webhooks_with_work(all.last().copied(), WEBHOOKS_PER_QUERY)).await?;
            let is_last = page.len() < WEBHOOKS_PER_QUERY as usize;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    async fn free_leases(&self) -> Result<Vec<WebhookId>, Unavailable> {
        self.ask(self.store.free_leases(Timestamp::now())).await
    }
}
