//! What supervisor and endpoints tell each other.

use actix::Message;

use super::breaker::{Breaker, BreakerState};
use crate::model::{OwnedWebhook, WebhookId};

/// Figures of the webhook actors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WebhooksState {
    /// Webhooks with work.
    pub endpoints: usize,
    /// Deliveries that this node has claimed and not recorded yet.
    pub in_flight: usize,
}

/// To the supervisor: these webhooks have something due.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct NudgeAll {
    pub webhooks: Vec<OwnedWebhook>,
}

/// To the supervisor: somebody says that an endpoint works again.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Repaired {
    pub webhook: OwnedWebhook,
}

/// To the supervisor: what an endpoint became. `serial` tells it from a later endpoint of the same webhook.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) enum EndpointEvent {
    /// It has nothing to do, as far as it knew after this many nudges.
    Idle { webhook: WebhookId, serial: u64, nudges: u64 },
    /// It ended, because it was let go or by a panic.
    Ended { webhook: OwnedWebhook, serial: u64 },
    /// Its breaker opened, or closed.
    Breaker { webhook: WebhookId, serial: u64, breaker: Breaker },
}

/// To the supervisor: the state of these webhooks' breakers.
#[derive(Message)]
#[rtype(result = "Vec<BreakerState>")]
pub(super) struct Breakers {
    pub webhooks: Vec<WebhookId>,
}

/// To the supervisor: its figures.
#[derive(Message)]
#[rtype(result = "WebhooksState")]
pub(super) struct ObserveAll;

/// To an endpoint: something may be due.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Nudge;

/// To an endpoint: its breaker is to forget the failures.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct CloseBreaker;

/// To an endpoint: how many deliveries it has in flight.
#[derive(Message)]
#[rtype(result = "usize")]
pub(super) struct Observe;

/// To both: no further claims.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub(super) struct Drain;
