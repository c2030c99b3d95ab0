//! Managing webhooks (contract §7).

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use oriva_hub_actors::{
    BreakerState,
    model::{
        Category, DeliveryId, Event, EventId, EventType, Invalid, JsonObject, Offsets, OwnedWebhook, Timestamp,
        WebhookId,
    },
    ports::{Attempt, Delivery, PayloadForm, Report, Verdict},
    protocol::PublishedEvent,
};

use super::{
    core::Hub,
    error::HubError,
    outbox::{target, warning},
};
use crate::{
    auth::{KeyHolder, Sealer},
    store::{
        Audit, DeliveryFilter, DeliveryRow, NewWebhook, Recovery, SecretChange, Store, StoreError, Webhook,
        WebhookChange,
    },
};

/// How long requests are signed with the replaced secret too.
const OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Events that one step of a recovery examines.
const RECOVERED_AT_ONCE: u32 = 500;

/// A request for a new webhook.
#[derive(Debug)]
pub struct NewWebhookRequest {
    /// Where requests go.
    pub url: String,
    /// Patterns of the events wanted.
    pub subscribed_events: Vec<String>,
    /// A note of its owner's.
    pub description: Option<String>,
    /// Greatest number of attempts after the first.
    pub max_retries: u16,
    /// The pause after the first attempt, in seconds.
    pub retry_backoff_seconds: u16,
    /// What bodies tell.
    pub payload: PayloadForm,
}

/// A webhook with the text of its secret. It is shown this once.
pub struct WebhookWithSecret {
    /// The webhook.
    pub webhook: Webhook,
    /// The signing secret, which is shown once.
    pub secret: String,
}

impl Hub {
    /// The app should know this about its webhook: that it keeps failing, for example.
    #[must_use]
    pub fn webhook_warning(&self, webhook: &Webhook) -> Option<String> {
        warning(webhook, &self.webhooks.sealer, self.webhooks.disable_after)
    }

    /// The state of webhooks' breakers on this node, in their order.
    pub async fn webhook_breakers(&self, webhooks: &[Webhook]) -> Vec<BreakerState> {
        self.webhooks.actors.breakers(webhooks.iter().map(|webhook| webhook.id).collect()).await
    }

    /// Checks a webhook's URL. A name in it is checked when it is dialled.
    ///
    /// # Errors
    /// [`Invalid`] with the rule.
    pub fn webhook_url(&self, text: &str) -> Result<String, Invalid> {
        (self.webhooks.check_url)(text)
    }

    /// Registers a webhook. It gets every event that is published after this returns.
    ///
    /// # Errors
    /// [`HubError::Conflict`] if the app has as many as it may have.
    pub async fn create_webhook(
        &self,
        caller: &KeyHolder,
        wanted: NewWebhookRequest,
        audit: &Audit,
    ) -> Result<WebhookWithSecret, HubError> {
        let id = WebhookId::generate();
        let (secret, sealed) = self.new_secret(id)?;
        let new = NewWebhook {
            id,
            app_id: caller.app.id.clone(),
            url: wanted.url,
            secret: sealed,
            subscribed_events: wanted.subscribed_events,
            description: wanted.description,
            max_retries: wanted.max_retries,
            retry_backoff_seconds: wanted.retry_backoff_seconds,
            payload: wanted.payload,
        };
        let max = self.webhooks.max_per_app;
        // The app was deleted meanwhile.
        let missing = |error| if matches!(error, StoreError::InUse) { HubError::NotFound } else { error.into() };
        let webhook = self.store.create_webhook(&new, max, audit).await.map_err(missing)?.ok_or_else(|| {
            HubError::Conflict(format!("the app has {max} webhooks, which is as many as it may have"))
        })?;
        tracing::info!(app_id = %webhook.app_id, webhook_id = %id, "webhook created");
        Ok(WebhookWithSecret { webhook, secret })
    }

    /// A page of the app's webhooks after one of them, oldest first.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn list_webhooks(
        &self,
        caller: &KeyHolder,
        after: Option<WebhookId>,
        limit: u32,
    ) -> Result<Vec<Webhook>, HubError> {
        Ok(self.store.webhooks(&caller.app.id, after, limit).await?)
    }

    /// # Errors
    /// [`HubError::NotFound`]; [`HubError::Forbidden`] for another app's.
    pub async fn webhook(&self, caller: &KeyHolder, id: WebhookId) -> Result<Webhook, HubError> {
        match self.store.webhook(&caller.app.id, id).await? {
            Some(webhook) => Ok(webhook),
            None => Err(self.no_webhook(id).await),
        }
    }

    /// Why an app has no webhook with this id: there is none, or it is another app's.
    async fn no_webhook(&self, id: WebhookId) -> HubError {
        match self.store.webhook_exists(id).await {
            Ok(true) => HubError::Forbidden,
            Ok(false) => HubError::NotFound,
            Err(error) => error.into(),
        }
    }

    /// Changes a webhook. If it is enabled again, its pending deliveries are sent.
    ///
    /// # Errors
    /// [`HubError::NotFound`]; [`HubError::Forbidden`] for another app's.
    pub async fn update_webhook(
        &self,
        caller: &KeyHolder,
        id: WebhookId,
        change: &WebhookChange,
        audit: &Audit,
    ) -> Result<Webhook, HubError> {
        let Some(webhook) = self.store.update_webhook(&caller.app.id, id, change, audit).await? else {
            return Err(self.no_webhook(id).await);
        };
        tracing::info!(app_id = %webhook.app_id, webhook_id = %id, is_active = webhook.is_active, "webhook changed");
        // Another address, or the app's word that it works again; a new description says nothing of that.
        if webhook.is_active && (change.url.is_some() || change.is_active == Some(true)) {
            self.webhooks.actors.repaired(owned(caller, id));
        }
        Ok(webhook)
    }

    /// Deletes a webhook with its deliveries.
    ///
    /// # Errors
    /// [`HubError::NotFound`]; [`HubError::Forbidden`] for another app's.
    pub async fn delete_webhook(&self, caller: &KeyHolder, id: WebhookId, audit: &Audit) -> Result<(), HubError> {
        if !self.store.delete_webhook(&caller.app.id, id, audit).await? {
            return Err(self.no_webhook(id).await);
        }
        tracing::info!(app_id = %caller.app.id, webhook_id = %id, "webhook deleted");
        Ok(())
    }

    /// Replaces a webhook's secret. For a day, requests are signed with the old one too.
    ///
    /// # Errors
    /// [`HubError::NotFound`]; [`HubError::Forbidden`] for another app's.
    pub async fn rotate_webhook_secret(
        &self,
        caller: &KeyHolder,
        id: WebhookId,
        audit: &Audit,
    ) -> Result<WebhookWithSecret, HubError> {
        let (secret, sealed) = self.new_secret(id)?;
        let until = Timestamp::from(Timestamp::now().as_datetime() + OVERLAP);
        let change = SecretChange { secret: sealed, previous_until: until };
        let changed = self.store.rotate_secret(&caller.app.id, id, &change, audit).await?;
        let Some(webhook) = changed else { return Err(self.no_webhook(id).await) };
        tracing::info!(app_id = %caller.app.id, webhook_id = %id, "webhook secret rotated");
        // Its deliveries may have waited for a secret that can be opened.
        self.webhooks.unreadable_secrets.remove(id);
        self.webhooks.actors.nudge(vec![owned(caller, id)]);
        Ok(WebhookWithSecret { webhook, secret })
    }

    /// Sends a `webhook.test` once and returns the result. It appears in the log and in no counter.
    ///
    /// # Errors
    /// [`HubError::NotFound`]; [`HubError::Forbidden`] for another app's.
    pub async fn test_webhook(&self, caller: &KeyHolder, id: WebhookId) -> Result<Report, HubError> {
        let webhook = self.webhook(caller, id).await?;
        let now = Timestamp::now();
        let target = target(&webhook, &self.webhooks.sealer, now)
            .map_err(|_| HubError::Conflict("the secret of this webhook cannot be opened; rotate it".to_owned()))?;
        let event = Event {
            id: EventId::generate(),
            app_id: caller.app.id.clone(),
            user_id: None,
            // The wire has no category for it. Only the type matters.
            category: Category::Session,
            event_type: EventType::from_store("webhook.test"),
            entity_type: "webhook".to_owned(),
            entity_id: id.to_string(),
            data: JsonObject::empty(),
            timestamp: now,
            created_at: now,
            from_platform: caller.app.is_platform,
            offsets: Offsets { app: 0, user: None, broadcast: None },
            trace: None,
        };
        let event = PublishedEvent::with_type(event, "webhook.test".to_owned());
        let delivery = Delivery { id: DeliveryId::generate(), attempt: 1, event };
        let report = self.webhooks.sender.send(&target, &delivery).await;
        let attempt = Attempt::judge(delivery, report, target.backoff, 0.5);
        self.store.log_attempt(&webhook, &attempt, now).await?;
        if attempt.report.verdict == Verdict::Delivered {
            self.webhooks.actors.repaired(owned(caller, id));
        }
        Ok(attempt.report)
    }

    /// A webhook's deliveries with their attempts, newest first.
    ///
    /// # Errors
    /// [`HubError::NotFound`]; [`HubError::Forbidden`] for another app's.
    pub async fn webhook_deliveries(
        &self,
        caller: &KeyHolder,
        id: WebhookId,
        filter: &DeliveryFilter,
    ) -> Result<Vec<DeliveryRow>, HubError> {
        self.webhook(caller, id).await?;
        Ok(self.store.deliveries(&caller.app.id, id, filter).await?)
    }

    /// Queues a delivery again, beginning with its first attempt.
    ///
    /// # Errors
    /// [`HubError::NotFound`]; [`HubError::Forbidden`] for another app's.
    pub async fn redeliver(
        &self,
        caller: &KeyHolder,
        id: WebhookId,
        delivery: DeliveryId,
        audit: &Audit,
    ) -> Result<DeliveryRow, HubError> {
        self.webhook(caller, id).await?;
        let row = self.store.redeliver(&caller.app.id, id, delivery, audit).await?.ok_or(HubError::NotFound)?;
        self.webhooks.actors.repaired(owned(caller, id));
        Ok(row)
    }

    /// Starts a job that queues all events again that have no successful delivery since a moment.
    ///
    /// # Errors
    /// [`HubError::NotFound`]; [`HubError::Forbidden`] for another app's.
    pub async fn recover_webhook(
        &self,
        caller: &KeyHolder,
        id: WebhookId,
        since: Timestamp,
        audit: &Audit,
    ) -> Result<Recovery, HubError> {
        let opened = self.store.start_recovery(&caller.app.id, id, since, audit).await?;
        let Some(recovery) = opened else { return Err(self.no_webhook(id).await) };
        self.recovery_started.notify_one();
        Ok(recovery)
    }

    /// A webhook's last recovery.
    ///
    /// # Errors
    /// [`HubError::NotFound`] if there is none.
    pub async fn webhook_recovery(&self, caller: &KeyHolder, id: WebhookId) -> Result<Recovery, HubError> {
        self.webhook(caller, id).await?;
        self.store.recovery(&caller.app.id, id).await?.ok_or(HubError::NotFound)
    }

    /// Completes when a recovery is started on this node.
    pub async fn recovery_opened(&self) {
        self.recovery_started.notified().await;
    }

    /// Advances the oldest unfinished recovery by one step. False if there is none.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn advance_recovery(&self) -> Result<bool, StoreError> {
        let Some(recovery) = self.store.advance_recovery(RECOVERED_AT_ONCE).await? else { return Ok(false) };
        let webhook = OwnedWebhook { app: recovery.app_id.clone(), id: recovery.webhook_id };
        self.webhooks.actors.nudge(vec![webhook]);
        if recovery.finished_at.is_some() {
            let (webhook, queued) = (recovery.webhook_id, recovery.queued);
            tracing::info!(webhook_id = %webhook, queued, "webhook recovery finished");
        }
        Ok(true)
    }

    fn new_secret(&self, id: WebhookId) -> Result<(String, Vec<u8>), HubError> {
        let bytes: [u8; SECRET_BYTES] = rand::random();
        let secret = format!("whsec_{}", BASE64_STANDARD.encode(bytes));
        let sealed = self.webhooks.sealer.seal(&secret, id.0.as_bytes());
        let sealed = sealed.map_err(|_| HubError::Bug("the secret cannot be sealed"))?;
        Ok((secret, sealed))
    }
}

fn owned(caller: &KeyHolder, id: WebhookId) -> OwnedWebhook {
    OwnedWebhook { app: caller.app.id.clone(), id }
}

/// Seals secrets again that are sealed under an earlier key. Returns their number.
///
/// # Errors
/// Where the store fails.
pub async fn reseal_secrets(store: &dyn Store, sealer: &Sealer) -> Result<u64, StoreError> {
    let mut resealed = 0;
    for (id, secret, previous) in store.webhook_secrets().await? {
        if !sealer.is_stale(&secret) && !previous.as_deref().is_some_and(|sealed| sealer.is_stale(sealed)) {
            continue;
        }
        let owner = id.0.as_bytes();
        let again = |sealed: &[u8]| sealer.open(sealed, owner).and_then(|text| sealer.seal(&text, owner));
        match again(&secret) {
            Ok(new) => {
                let previous = previous.and_then(|sealed| again(&sealed).ok());
                store.reseal_secret(id, &secret, &new, previous.as_deref()).await?;
                resealed += 1;
            }
            Err(error) => tracing::error!(
                webhook_id = %id,
                %error,
                "webhook secret cannot be opened; configure its key in auth.previous_encryption_keys"
            ),
        }
    }
    Ok(resealed)
}
