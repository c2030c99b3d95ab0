//! Deliveries of events to webhooks: claims, attempts, and when the next attempt is due (contract §7).

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    model::{AppId, DeliveryId, Invalid, WebhookId},
    protocol::PublishedEvent,
};

/// Greatest `Retry-After` that is respected.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);
/// Random spread of a pause, as a share of it.
const JITTER: f64 = 0.1;

/// The pauses between attempts: `first × 2ⁿ` ±10 %, and at most `retries` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first attempt.
    pub first: Duration,
    /// Greatest number of attempts after the first.
    pub retries: u16,
}

impl Backoff {
    /// The pause after attempt `attempt`, counted from 1. `random`, in 0..1, spreads it. `None` if that attempt was the
    /// last.
    #[must_use]
    pub fn after(&self, attempt: u16, random: f64) -> Option<Duration> {
        if attempt > self.retries {
            return None;
        }
        let doubled = self.first.saturating_mul(1 << u32::from(attempt.saturating_sub(1)).min(16));
        Some(doubled.mul_f64(1.0 - JITTER + 2.0 * JITTER * random))
    }
}

/// A signing secret in the form that its app knows (`whsec_…`). Never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(pub String);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

/// What the body of a request tells of its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PayloadForm {
    /// Everything, and the event's data twice: as `event_data`, and as `data` with the entity's fields.
    #[default]
    Full,
    /// Everything but `data`.
    NoData,
    /// Which event it is, without its data.
    Thin,
}

impl PayloadForm {
    /// All forms.
    pub const ALL: [Self; 3] = [Self::Full, Self::NoData, Self::Thin];

    /// The name, as clients write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::NoData => "no_data",
            Self::Thin => "thin",
        }
    }

    /// Parses a name.
    ///
    /// # Errors
    /// [`Invalid`] with the names.
    pub fn parse(name: &str) -> Result<Self, Invalid> {
        let found = Self::ALL.into_iter().find(|form| form.as_str() == name);
        found.ok_or_else(|| Invalid::new("must be one of full, no_data, thin"))
    }
}

/// The URL and secrets of a webhook.
#[derive(Debug, Clone)]
pub struct Target {
    /// The webhook.
    pub webhook: WebhookId,
    /// The app that owns it.
    pub app: AppId,
    /// Where its requests go.
    pub url: String,
    /// The current secret, then the previous one while it is still valid.
    pub secrets: Vec<SigningSecret>,
    /// The pauses between attempts.
    pub backoff: Backoff,
    /// What bodies tell.
    pub payload: PayloadForm,
}

/// One event owed to one webhook, claimed by this node.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The same over all attempts.
    pub id: DeliveryId,
    /// Number of the attempt to make, counted from 1.
    pub attempt: u16,
    /// The event to send.
    pub event: Arc<PublishedEvent>,
}

/// The result of a claim.
#[derive(Debug, Clone, Default)]
pub struct Claim {
    /// `None` if the webhook was deleted or is not active.
    pub target: Option<Arc<Target>>,
    /// Due deliveries, in the order of their offsets.
    pub deliveries: Vec<Delivery>,
    /// Time until the next delivery is due that this claim left behind.
    pub next_due: Option<Duration>,
    /// How long ago the lease began.
    pub age: Duration,
}

/// The receiver's verdict on an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver answered 2xx.
    Delivered,
    /// Any other answer, or none.
    Failed {
        /// The pause that the receiver asked for.
        retry_after: Option<Duration>,
    },
    /// The receiver answered 410: it wants no more deliveries.
    Gone,
}

/// The result of one HTTP request.
#[derive(Debug, Clone)]
pub struct Report {
    /// What the answer means.
    pub verdict: Verdict,
    /// The answer's status; `None` if there was no answer.
    pub status_code: Option<u16>,
    /// From the request to the end of the answer.
    pub response_time: Duration,
    /// The first 10 KiB of the response's body.
    pub response_body: Option<String>,
    /// A JSON object of names and values.
    pub response_headers: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// The body that was sent.
    pub payload: String,
}

impl Report {
    /// A request to which no answer came.
    pub fn failed(error: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Failed { retry_after: None },
            status_code: None,
            response_time: Duration::ZERO,
            response_body: None,
            response_headers: None,
            error: Some(error.into()),
            payload: String::new(),
        }
    }
}

/// What comes after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It arrived.
    Succeeded,
    /// The delivery is due again after this pause.
    RetryIn(Duration),
    /// The last attempt failed. The delivery waits for a redelivery by hand.
    Failed,
    /// The delivery stays due, and the webhook is disabled.
    Gone,
}

/// An attempt and what comes after it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Id of the attempt, so that it is recorded once however often recording is repeated.
    pub id: Uuid,
    /// What was attempted.
    pub delivery: Delivery,
    /// What came of the request.
    pub report: Report,
    /// What comes after it.
    pub next: Next,
}

impl Attempt {
    /// Decides what comes after an attempt.
    #[must_use]
    pub fn judge(delivery: Delivery, report: Report, backoff: Backoff, random: f64) -> Self {
        let next = match report.verdict {
            Verdict::Delivered => Next::Succeeded,
            Verdict::Gone => Next::Gone,
            Verdict::Failed { retry_after } => match backoff.after(delivery.attempt, random) {
                None => Next::Failed,
                Some(pause) => Next::RetryIn(pause.max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER))),
            },
        };
        Self { id: Uuid::now_v7(), delivery, report, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::event;

    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), retries: 5 };

    #[test]
    fn pauses_double_and_end() {
        let pauses: Vec<_> = (1..=6).map(|attempt| BACKOFF.after(attempt, 0.5).map(|p| p.as_secs_f64())).collect();
        assert_eq!(pauses, [Some(1.0), Some(2.0), Some(4.0), Some(8.0), Some(16.0), None]);
        assert_eq!(BACKOFF.after(1, 0.0), Some(Duration::from_millis(900)));
        let latest = BACKOFF.after(5, 1.0).unwrap();
        assert!(latest > Duration::from_millis(17_599) && latest < Duration::from_millis(17_601));
        let slow = Backoff { first: Duration::from_secs(60), retries: 10 };
        assert_eq!(slow.after(10, 0.5), Some(Duration::from_secs(60 * 512)));
    }

    fn judge(attempt: u16, verdict: Verdict) -> Next {
        let delivery = Delivery { id: DeliveryId::generate(), attempt, event: event("alice", 1, 1) };
        let report = Report {
            verdict,
            status_code: None,
            response_time: Duration::ZERO,
            response_body: None,
            response_headers: None,
            error: None,
            payload: String::new(),
        };
        Attempt::judge(delivery, report, BACKOFF, 0.5).next
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_pause_but_not_for_a_shorter_or_endless_one() {
        let failed = |seconds| Verdict::Failed { retry_after: Some(Duration::from_secs(seconds)) };
        assert_eq!(judge(1, failed(30)), Next::RetryIn(Duration::from_secs(30)));
        assert_eq!(judge(3, failed(1)), Next::RetryIn(Duration::from_secs(4)));
        assert_eq!(judge(1, failed(86_400)), Next::RetryIn(Duration::from_secs(600)));
        assert_eq!(judge(6, failed(30)), Next::Failed);
        assert_eq!(judge(1, Verdict::Delivered), Next::Succeeded);
        assert_eq!(judge(1, Verdict::Gone), Next::Gone);
    }
}
