//! What the realtime core needs from outside, as traits. Adapters live in the hub's crate, fakes in `testing`.

mod delivery;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    model::{ConnectionCounts, DeliveryId, Identity, Offset, StreamKey, Timestamp, WebhookId},
    protocol::PublishedEvent,
};

pub use delivery::{Attempt, Backoff, Claim, Delivery, Next, Report, SigningSecret, Target, Verdict};

/// The store cannot answer now; ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("event history is unavailable")]
pub struct Unavailable;

/// A run of a stream's events.
#[derive(Debug, Clone)]
pub struct Page {
    /// In offset order, the first being the one asked for or, where history no longer reaches back, a later one.
    pub events: Vec<Arc<PublishedEvent>>,
    /// The stream's end when the page was read, at least the last event's offset.
    pub head: Offset,
}

/// Committed events by stream: the truth that sessions heal from.
#[async_trait]
pub trait EventHistory: Send + Sync {
    /// The offsets of the streams' last events, in the order asked for; 0 for a stream that has none.
    ///
    /// # Errors
    /// The store does not answer.
    async fn heads(&self, streams: &[StreamKey]) -> Result<Vec<Offset>, Unavailable>;

    /// At most `limit` events later than `after`.
    async fn page(&self, stream: &StreamKey, after: Offset, limit: usize) -> Result<Page, Unavailable>;
}

/// The other nodes, as far as this one hears of them. Nothing here waits, and whatever is lost is healed from the store.
pub trait Bus: Send + Sync {
    /// Wants to hear what other nodes publish to this stream. Ordered before it returns; completes when it is heard from
    /// then on, or when the bus is away.
    fn follow(&self, stream: &StreamKey) -> BoxFuture<'static, ()>;

    /// Nobody here wants to hear of it any more.
    fn unfollow(&self, stream: &StreamKey);

    /// Whether everything that other nodes commit is heard of. While not, sessions look for themselves.
    fn is_complete(&self) -> bool;

    /// Tells other nodes of committed events, in the order of commit.
    fn publish(&self, events: &[Arc<PublishedEvent>]);

    /// Has other nodes say something to everybody of a stream, beside its events.
    fn send_frame(&self, stream: &StreamKey, frame: &Bytes);

    /// Has other nodes compare themselves with the store: something may be committed that nobody can tell of.
    fn request_resync(&self);
}

/// Connection places, as all nodes count them.
pub trait ConnectionLimiter: Send + Sync {
    /// Claims a place: this node would then hold `own` for the stream, of at most `limit` over all nodes. Ordered before
    /// it returns. Where others cannot be asked, this node's own count decides.
    fn acquire(
        &self,
        stream: &StreamKey,
        own: &ConnectionCounts,
        limit: usize,
    ) -> BoxFuture<'static, Result<(), LimitReached>>;

    /// This node holds `own` for the stream now.
    fn set_count(&self, stream: &StreamKey, own: &ConnectionCounts);

    /// What this node holds has to be counted anew.
    fn recount(&self);
}

/// All places of a user or app are taken, some perhaps on other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all places are taken")]
pub struct LimitReached;

/// Deliveries as the store keeps them: the queue itself.
#[async_trait]
pub trait Deliveries: Send + Sync {
    /// Takes at most `limit` due deliveries of an active webhook under this node's lease.
    async fn claim(&self, webhook: WebhookId, limit: usize) -> Result<Claim, Unavailable>;

    /// Writes down attempts of one webhook, in the order in which they ended, with what comes after each.
    async fn record(&self, webhook: WebhookId, attempts: &[Attempt]) -> Result<(), Unavailable>;

    /// Makes due again what was claimed here and not tried.
    async fn release(&self, webhook: WebhookId, deliveries: &[DeliveryId]) -> Result<(), Unavailable>;

    /// Active webhooks with deliveries that wait, some of them.
    async fn with_work(&self) -> Result<Vec<WebhookId>, Unavailable>;

    /// Makes due again what was claimed by nodes that are gone; whose it is.
    async fn free_leases(&self) -> Result<Vec<WebhookId>, Unavailable>;
}

/// Makes attempts.
#[async_trait]
pub trait WebhookSender: Send + Sync {
    /// One HTTP try, within its own deadline. Whatever goes wrong is in the report.
    async fn send(&self, target: &Target, delivery: &Delivery) -> Report;
}

/// Hears which notifications reached their users.
pub trait DeliveryReceipts: Send + Sync {
    /// A socket of the event's user was pushed an event that announces a notification. Must not wait.
    fn pushed(&self, event: &PublishedEvent);
}

/// How long a credential still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    pub at: Timestamp,
    pub remaining: Duration,
}

/// Why a refresh was refused: a code of contract §2 and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshError {
    pub code: &'static str,
    pub message: String,
}

/// Verifies tokens that arrive on an open socket.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// Checks that `token` is good and gives `holder` exactly what it had.
    async fn refresh(&self, token: &str, holder: &Identity) -> Result<Expiry, RefreshError>;
}
