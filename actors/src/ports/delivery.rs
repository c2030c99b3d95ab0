//! Deliveries: events owed to webhooks, the attempts at them, and when the next one is due (contract §7).

use std::{fmt, sync::Arc, time::Duration};

use uuid::Uuid;

use crate::{
    model::{AppId, DeliveryId, WebhookId},
    protocol::PublishedEvent,
};

/// How long a receiver may have a delivery wait by `Retry-After`.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);
/// How far a pause is spread, as a share of it.
const JITTER: f64 = 0.1;

/// Pauses between attempts: `first × 2ⁿ`, ±10 %, at most `retries` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub retries: u16,
}

impl Backoff {
    /// The pause after attempt number `attempt` (1 is the first), where `random` in 0..1 spreads it; `None` where that
    /// was the last.
    #[must_use]
    pub fn after(&self, attempt: u16, random: f64) -> Option<Duration> {
        if attempt > self.retries {
            return None;
        }
        let doubled = self.first.saturating_mul(1 << u32::from(attempt.saturating_sub(1)).min(16));
        Some(doubled.mul_f64(1.0 - JITTER + 2.0 * JITTER * random))
    }
}

/// A signing secret as its app was shown it (`whsec_…`). Never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(pub String);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

/// Where a webhook's deliveries go.
#[derive(Debug, Clone)]
pub struct Target {
    pub webhook: WebhookId,
    pub app: AppId,
    pub url: String,
    /// The current one first, then the one before while it is good.
    pub secrets: Vec<SigningSecret>,
    pub backoff: Backoff,
}

/// One event owed to one webhook, claimed by this node.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub id: DeliveryId,
    /// The number of the attempt that is to be made, from 1.
    pub attempt: u16,
    pub event: Arc<PublishedEvent>,
}

/// What a claim gives.
#[derive(Debug, Clone, Default)]
pub struct Claim {
    /// `None` where the webhook is gone or not active.
    pub target: Option<Arc<Target>>,
    pub deliveries: Vec<Delivery>,
    /// Until the next delivery is due that was not claimed.
    pub next_due: Option<Duration>,
}

/// How a receiver took an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    Failed {
        retry_after: Option<Duration>,
    },
    /// 410: it wants no more.
    Gone,
}

/// One HTTP try, as it went.
#[derive(Debug, Clone)]
pub struct Report {
    pub verdict: Verdict,
    pub status_code: Option<u16>,
    pub response_time: Duration,
    /// The first 10 KiB of the answer.
    pub response_body: Option<String>,
    /// A JSON object of names and values.
    pub response_headers: Option<String>,
    pub error: Option<String>,
    /// The body that was sent.
    pub payload: String,
}

/// What comes after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It arrived.
    Succeeded,
    RetryIn(Duration),
    /// It was the last: waits for a redelivery.
    Failed,
    /// It stays due, and the webhook is disabled.
    Gone,
}

/// An attempt and what comes after it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its own, so that it is written down once however often that is tried.
    pub id: Uuid,
    pub delivery: Delivery,
    pub report: Report,
    pub next: Next,
}

impl Attempt {
    /// Decides what comes after a try.
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
