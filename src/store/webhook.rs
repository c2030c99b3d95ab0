//! Webhooks and their deliveries.

use std::{collections::HashMap, sync::Arc, time::Duration};

use oriva_hub_actors::{
    model::{AppId, DeliveryId, EventId, EventPattern, Offset, OwnedWebhook, Timestamp, WebhookId},
    ports::{Attempt, Next, PayloadForm},
    protocol::PublishedEvent,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::event::NewEvent;

/// A webhook. Its secrets are sealed.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// The app that owns it.
    pub app_id: AppId,
    /// Where requests go.
    pub url: String,
    /// The signing secret, sealed.
    pub secret: Vec<u8>,
    /// The signing secret before, sealed.
    pub previous_secret: Option<Vec<u8>>,
    /// Until when that one is valid.
    pub previous_secret_expires_at: Option<Timestamp>,
    /// Patterns of the events wanted.
    pub subscribed_events: Vec<String>,
    /// Whether it gets deliveries.
    pub is_active: bool,
    /// Why the hub disabled it.
    pub disabled_reason: Option<String>,
    /// A note of its owner's.
    pub description: Option<String>,
    /// The last attempt.
    pub last_delivery_at: Option<Timestamp>,
    /// The last attempt that succeeded.
    pub last_success_at: Option<Timestamp>,
    /// The last attempt that failed.
    pub last_failure_at: Option<Timestamp>,
    /// Attempts that failed since the last success, or since the webhook was enabled.
    pub consecutive_failures: u32,
    /// Attempts that succeeded or failed.
    pub total_deliveries: u64,
    /// Attempts that failed.
    pub total_failures: u64,
    /// Greatest number of attempts after the first.
    pub max_retries: u16,
    /// The pause after the first attempt, in seconds.
    pub retry_backoff_seconds: u16,
    /// What bodies tell.
    pub payload: PayloadForm,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// A webhook to create.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Its id.
    pub id: WebhookId,
    /// The app that owns it.
    pub app_id: AppId,
    /// Where requests go.
    pub url: String,
    /// The signing secret, sealed.
    pub secret: Vec<u8>,
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

/// A change of a webhook. `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct WebhookChange {
    /// Where requests go.
    pub url: Option<String>,
    /// Patterns of the events wanted.
    pub subscribed_events: Option<Vec<String>>,
    /// `true` resets failures and reason.
    pub is_active: Option<bool>,
    /// `Some(None)` removes it.
    pub description: Option<Option<String>>,
    /// Greatest number of attempts after the first.
    pub max_retries: Option<u16>,
    /// The pause after the first attempt, in seconds.
    pub retry_backoff_seconds: Option<u16>,
    /// What bodies tell.
    pub payload: Option<PayloadForm>,
}

/// A new secret of a webhook.
#[derive(Debug, Clone)]
pub struct SecretChange {
    /// The new signing secret, sealed.
    pub secret: Vec<u8>,
    /// Until this moment the replaced secret is used for signing too.
    pub previous_until: Timestamp,
}

/// The status of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryStatus {
    /// It waits for its time.
    Pending,
    /// A node is sending it.
    Delivering,
    /// It arrived.
    Succeeded,
    /// It failed, and no attempt is left.
    Failed,
    /// Its event is past retention, so nothing is left to send.
    Cancelled,
}

impl DeliveryStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Delivering, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The name, as clients write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivering => "delivering",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status that has this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// A delivery as it is listed.
#[derive(Debug, Clone)]
pub struct DeliveryRow {
    /// Its id.
    pub id: DeliveryId,
    /// The event that is owed.
    pub event_id: EventId,
    /// Full.
    pub event_type: String,
    /// What became of it.
    pub status: DeliveryStatus,
    /// Attempts made since it was last queued.
    pub attempts: u16,
    /// When the next attempt is due.
    pub next_attempt_at: Timestamp,
    /// When it was queued first.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
    /// Oldest first.
    pub log: Vec<AttemptRow>,
}

/// An attempt as it is listed.
#[derive(Debug, Clone)]
pub struct AttemptRow {
    /// Counted from 1.
    pub number: u16,
    /// The moment of the request.
    pub at: Timestamp,
    /// Whether the endpoint answered 2xx.
    pub success: bool,
    /// The answer's status, if there was an answer.
    pub status_code: Option<u16>,
    /// From the request to the end of the answer.
    pub response_time_ms: Option<u32>,
    /// The first 10 KiB of the answer.
    pub response_body: Option<String>,
    /// Why it failed.
    pub error_message: Option<String>,
}

/// Filters of deliveries. The list is newest first.
#[derive(Debug, Clone)]
pub struct DeliveryFilter {
    /// Only with this status.
    pub status: Option<DeliveryStatus>,
    /// Full.
    pub event_type: Option<String>,
    /// Only from this moment on.
    pub since: Option<Timestamp>,
    /// Greatest number of deliveries.
    pub limit: u32,
    /// The last delivery of the page before.
    pub after: Option<DeliveryId>,
}

/// Claimed deliveries, with their webhook.
#[derive(Debug)]
pub struct Claimed {
    /// The webhook, as it was read for the claim.
    pub webhook: Webhook,
    /// Id, number of the next attempt, and the event.
    pub deliveries: Vec<(DeliveryId, u16, Arc<PublishedEvent>)>,
    /// When the next unclaimed delivery is due.
    pub next_due: Option<Timestamp>,
}

/// A node's claim on deliveries.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// The node.
    pub owner: uuid::Uuid,
    /// How long the lease lasts, by the database's clock: nodes' own clocks may differ.
    pub length: Duration,
}

/// The state of a webhook after attempts were recorded.
#[derive(Debug, Clone)]
pub struct AfterAttempts {
    /// The app that owns the webhook.
    pub app_id: AppId,
    /// Failures in a row before these attempts.
    pub failures_before: u32,
    /// Failures in a row after them.
    pub failures: u32,
    /// The reason, if these attempts disabled it.
    pub disabled: Option<String>,
}

/// A job that queues again what a webhook missed.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// The job's id.
    pub id: uuid::Uuid,
    /// The webhook.
    pub webhook_id: WebhookId,
    /// The app that owns it.
    pub app_id: AppId,
    /// The moment from which on events are queued.
    pub since: Timestamp,
    /// The offset in the app's stream up to which events were examined.
    pub position: Offset,
    /// The last offset to look at.
    pub until: Offset,
    /// Deliveries queued so far.
    pub queued: u64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was done.
    pub finished_at: Option<Timestamp>,
}

/// The subscriptions of all active webhooks, as of a revision.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    pub revision: i64,
    by_app: HashMap<AppId, Vec<(WebhookId, Vec<EventPattern>)>>,
}

/// A delivery to insert, in the transaction of its event.
#[derive(Debug)]
pub(super) struct PendingDelivery {
    pub id: DeliveryId,
    pub webhook: WebhookId,
    pub app_id: AppId,
    pub event_id: EventId,
    pub event_type: String,
}

impl PendingDelivery {
    pub(super) fn owned_webhook(&self) -> OwnedWebhook {
        OwnedWebhook { app: self.app_id.clone(), id: self.webhook }
    }
}

impl Subscriptions {
    pub(super) fn new(revision: i64, rows: Vec<(WebhookId, AppId, Vec<String>)>) -> Self {
        let mut by_app: HashMap<_, Vec<_>> = HashMap::new();
        for (webhook, app, patterns) in rows {
            by_app.entry(app).or_default().push((webhook, parse_patterns(&patterns)));
        }
        Self { revision, by_app }
    }

    /// The deliveries of these events.
    pub(super) fn match_events<'a>(&self, events: impl Iterator<Item = &'a NewEvent>) -> Vec<PendingDelivery> {
        let mut pending = Vec::new();
        for event in events {
            let Some(webhooks) = self.by_app.get(&event.app_id) else { continue };
            let full_type = event.full_type();
            for (webhook, patterns) in webhooks {
                if patterns.iter().any(|pattern| pattern.matches(&full_type)) {
                    pending.push(PendingDelivery {
                        id: DeliveryId::generate(),
                        webhook: *webhook,
                        app_id: event.app_id.clone(),
                        event_id: event.id,
                        event_type: full_type.clone(),
                    });
                }
            }
        }
        pending
    }
}

/// Parses stored patterns. A damaged one matches nothing.
pub(super) fn parse_patterns(texts: &[String]) -> Vec<EventPattern> {
    texts.iter().filter_map(|text| EventPattern::parse(text).ok()).collect()
}

/// The effect of several attempts on their webhook's row, so that the row is written once.
pub(super) struct AttemptSummary {
    pub succeeded: u64,
    pub failed: u64,
    /// One of the attempts succeeded, so failures are counted from there.
    pub resets: bool,
    /// Failures after the last success.
    pub failures: u32,
    pub is_gone: bool,
}

impl AttemptSummary {
    pub(super) fn from_attempts(attempts: &[Attempt]) -> Self {
        let mut summary = Self { succeeded: 0, failed: 0, resets: false, failures: 0, is_gone: false };
        for attempt in attempts {
            if attempt.next == Next::Succeeded {
                summary.succeeded += 1;
                summary.resets = true;
                summary.failures = 0;
            } else {
                summary.failed += 1;
                summary.failures += 1;
            }
            summary.is_gone |= attempt.next == Next::Gone;
        }
        summary
    }

    /// Failures in a row after these attempts, with `before` before them; and the reason to disable the webhook, if
    /// there is one.
    pub(super) fn judge(&self, before: u32, disable_after: u32) -> (u32, Option<String>) {
        let failures = if self.resets { self.failures } else { before.saturating_add(self.failures) };
        let reason = if self.is_gone {
            Some("the endpoint answered 410 Gone".to_owned())
        } else if failures >= disable_after {
            Some(format!("{failures} attempts failed in a row"))
        } else {
            None
        };
        (failures, reason)
    }
}

/// The status of a delivery after an attempt, and the moment when the next one is due.
pub(super) fn after_attempt(next: Next, now: Timestamp) -> (DeliveryStatus, Timestamp) {
    match next {
        Next::Succeeded => (DeliveryStatus::Succeeded, now),
        Next::Failed => (DeliveryStatus::Failed, now),
        // The delivery stays pending, in case the app enables the webhook again.
        Next::Gone => (DeliveryStatus::Pending, now),
        Next::RetryIn(pause) => (DeliveryStatus::Pending, Timestamp::from(now.as_datetime() + pause)),
    }
}
