//! Implements the queue of the webhook actors with the store: claims under this node's name, opens secrets, and logs
//! failing webhooks.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use moka::sync::Cache;
use oriva_hub_actors::{
    Realtime,
    model::{AppId, DeliveryId, EventPattern, OwnedWebhook, Timestamp, WebhookId, unmatchable_patterns},
    ports::{Attempt, Backoff, Claim, Deliveries, Delivery, SigningSecret, Target, Unavailable},
};
use uuid::Uuid;

use super::fair_turns::FairTurns;
use crate::{
    auth::{SealError, Sealer},
    store::{AfterAttempts, Lease, Store, StoreError, Webhook, within_deadline},
};

/// Webhooks read by one query. A sweep reads page after page until it has all.
const WEBHOOKS_PER_QUERY: u32 = 100;
/// Greatest number of claims and records at once. A thousand busy endpoints must leave database connections for
/// publishing.
const AT_ONCE: usize = 4;
/// Webhooks whose secret cannot be opened that are remembered, to log each once.
const UNREADABLE: u64 = 10_000;
/// Pause until such a webhook's secret is tried again.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);
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

/// When secrets of webhooks last could not be opened. Clones are the same.
#[derive(Clone)]
pub struct UnreadableSecrets(Cache<WebhookId, Instant>);

impl Default for UnreadableSecrets {
    fn default() -> Self {
        Self(Cache::new(UNREADABLE))
    }
}

impl UnreadableSecrets {
    /// How long a webhook's secret is still not tried again.
    fn pause(&self, webhook: WebhookId) -> Option<Duration> {
        UNREADABLE_PAUSE.checked_sub(self.0.get(&webhook)?.elapsed())
    }

    /// It could not be opened. Whether that is news.
    fn insert(&self, webhook: WebhookId) -> bool {
        let is_news = !self.0.contains_key(&webhook);
        self.0.insert(webhook, Instant::now());
        is_news
    }

    /// It was opened, or there is a new one.
    pub(super) fn remove(&self, webhook: WebhookId) {
        self.0.invalidate(&webhook);
    }
}

/// The outbox of one node.
pub struct StoreOutbox {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    realtime: Realtime,
    config: OutboxConfig,
    node: Uuid,
    turns: FairTurns,
    unreadable: UnreadableSecrets,
}

impl StoreOutbox {
    /// Deliveries of `store`, claimed in this node's name.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, sealer: Arc<Sealer>, realtime: Realtime, config: OutboxConfig) -> Self {
        Self {
            store,
            sealer,
            realtime,
            config,
            node: Uuid::now_v7(),
            turns: FairTurns::new(AT_ONCE),
            unreadable: UnreadableSecrets::default(),
        }
    }

    /// Asks the store when it is the app's turn, or, without an app, the hub's own.
    async fn ask<T>(
        &self,
        app: Option<&AppId>,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Unavailable> {
        let _turn = self.turns.take(app).await;
        within_deadline(&*self.store, question).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "outbox unavailable");
            Unavailable
        })
    }

    /// The secrets that could not be opened. Who replaces one removes it there.
    #[must_use]
    pub fn unreadable_secrets(&self) -> UnreadableSecrets {
        self.unreadable.clone()
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

/// The warning for a webhook that keeps failing, whose secret cannot be opened, or whose patterns can match no event.
#[must_use]
pub(super) fn warning(webhook: &Webhook, sealer: &Sealer, disable_after: u32) -> Option<String> {
    let failures = webhook.consecutive_failures;
    let fails = webhook.is_active && failures >= warns_at(WARNINGS[0], disable_after);
    let failing =
        fails.then(|| format!("{failures} attempts failed in a row; at {disable_after} the webhook is disabled"));
    let patterns: Vec<_> = webhook.subscribed_events.iter().flat_map(|text| EventPattern::parse(text)).collect();
    let is_unreadable = sealer.open(&webhook.secret, webhook.id.0.as_bytes()).is_err();
    let unreadable = is_unreadable.then(|| {
        "the hub cannot open its secret, so its deliveries wait: rotate the secret, or tell the operator".to_owned()
    });
    let warnings: Vec<_> = failing.into_iter().chain(unreadable).chain(unmatchable_patterns(&patterns)).collect();
    (!warnings.is_empty()).then(|| warnings.join("; "))
}

/// The URL and opened secrets of a webhook.
///
/// # Errors
/// If its current secret cannot be opened: without it a receiver could not tell that a request is the hub's.
pub(super) fn target(webhook: &Webhook, sealer: &Sealer, now: Timestamp) -> Result<Target, SealError> {
    let owner = webhook.id.0.as_bytes();
    let previous = match (&webhook.previous_secret, webhook.previous_secret_expires_at) {
        (Some(secret), Some(until)) if until > now => Some(secret),
        _ => None,
    };
    let mut secrets = vec![SigningSecret(sealer.open(&webhook.secret, owner)?)];
    // One that was sealed with a lost key and then replaced signs no more.
    secrets.extend(previous.and_then(|sealed| sealer.open(sealed, owner).ok()).map(SigningSecret));
    Ok(Target {
        webhook: webhook.id,
        app: webhook.app_id.clone(),
        url: webhook.url.clone(),
        secrets,
        backoff: Backoff {
            first: Duration::from_secs(webhook.retry_backoff_seconds.into()),
            retries: webhook.max_retries,
        },
        payload: webhook.payload,
    })
}

#[async_trait]
impl Deliveries for StoreOutbox {
    async fn claim(&self, webhook: &OwnedWebhook, limit: usize) -> Result<Claim, Unavailable> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        // Every event nudges: a secret that could not be opened is not tried again each time.
        if let Some(pause) = self.unreadable.pause(webhook.id) {
            return Ok(Claim { next_due: Some(pause), ..Claim::default() });
        }
        let began = std::sync::OnceLock::new();
        let claim = async {
            // When its turn has come: the lease is for the attempt and not for the wait before it.
            let _ = began.set(Instant::now());
            let lease = Lease { owner: self.node, length: self.config.lease };
            self.store.claim_deliveries(webhook.id, limit, lease, Timestamp::now()).await
        };
        let Some(claimed) = self.ask(Some(&webhook.app), claim).await? else { return Ok(Claim::default()) };
        let until = |moment: Timestamp| {
            Duration::from_millis(u64::try_from(moment.unix_ms() - Timestamp::now().unix_ms()).unwrap_or(0))
        };
        let target = match target(&claimed.webhook, &self.sealer, Timestamp::now()) {
            Ok(target) => target,
            Err(error) => {
                if claimed.deliveries.is_empty() {
                    return Ok(Claim { next_due: claimed.next_due.map(until), ..Claim::default() });
                }
                // The deliveries wait. The webhook's `warning` tells the app, and a new secret nudges at once.
                if self.unreadable.insert(webhook.id) {
                    let (webhook_id, app_id) = (webhook.id, &webhook.app);
                    tracing::error!(%webhook_id, %app_id, %error, "webhook secret cannot be opened; its deliveries wait: configure the key in auth.previous_encryption_keys or rotate the secret");
                }
                let claimed: Vec<DeliveryId> = claimed.deliveries.iter().map(|(id, ..)| *id).collect();
                self.release(webhook, &claimed).await?;
                return Ok(Claim { next_due: Some(UNREADABLE_PAUSE), ..Claim::default() });
            }
        };
        self.unreadable.remove(webhook.id);
        Ok(Claim {
            target: Some(Arc::new(target)),
            deliveries: claimed
                .deliveries
                .into_iter()
                .map(|(id, attempt, event)| Delivery { id, attempt, event })
                .collect(),
            next_due: claimed.next_due.map(until),
            age: began.get().map_or(Duration::ZERO, Instant::elapsed),
        })
    }

    async fn record(&self, webhook: &OwnedWebhook, attempts: &[Attempt]) -> Result<(), Unavailable> {
        let record = async {
            let now = Timestamp::now();
            self.store.record_attempts(webhook.id, self.node, attempts, self.config.disable_after, now).await
        };
        if let Some(after) = self.ask(Some(&webhook.app), record).await? {
            self.report(webhook.id, &after);
        }
        Ok(())
    }

    async fn release(&self, webhook: &OwnedWebhook, deliveries: &[DeliveryId]) -> Result<(), Unavailable> {
        self.ask(Some(&webhook.app), self.store.release_deliveries(webhook.id, self.node, deliveries)).await
    }

    async fn with_work(&self) -> Result<Vec<OwnedWebhook>, Unavailable> {
        let mut all: Vec<OwnedWebhook> = Vec::new();
        loop {
            let last = all.last().map(|webhook| webhook.id);
            let page = self.ask(None, self.store.webhooks_with_work(last, WEBHOOKS_PER_QUERY)).await?;
            let is_last = page.len() < WEBHOOKS_PER_QUERY as usize;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    async fn free_leases(&self) -> Result<Vec<OwnedWebhook>, Unavailable> {
        self.ask(None, self.store.free_leases()).await
    }
}
