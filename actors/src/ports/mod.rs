//! The traits that the realtime core needs from outside. Their adapters are in the hub's crate, fakes in `testing`.

mod delivery;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    model::{ConnectionCounts, DeliveryId, Identity, Offset, OwnedWebhook, StreamKey, Timestamp},
    protocol::PublishedEvent,
};

pub use delivery::{Attempt, Backoff, Claim, Delivery, Next, PayloadForm, Report, SigningSecret, Target, Verdict};

/// The store cannot answer now. The same call may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("event history is unavailable")]
pub struct Unavailable;

/// How much a page may hold. The bound that is met first ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Number of events.
    pub events: usize,
    /// Bytes of `event_data`. The event that passes the bound is still in the page, so that there is always one.
    pub bytes: usize,
}

/// A page of a stream's events.
#[derive(Debug, Clone)]
pub struct Page {
    /// In the order of their offsets. The first is the next one after the requested offset; a later one if retention
    /// has deleted that.
    pub events: Vec<Arc<PublishedEvent>>,
    /// The stream's head when the page was read, at least the last event's offset.
    pub head: Offset,
}

/// Committed events, by stream. Sessions repair from it whatever they missed.
#[async_trait]
pub trait EventHistory: Send + Sync {
    /// The offsets of the streams' last events, in the order asked for; 0 for a stream that has none.
    ///
    /// # Errors
    /// The store does not answer.
    async fn heads(&self, streams: &[StreamKey]) -> Result<Vec<Offset>, Unavailable>;

    /// Reads the events after an offset, as many as [`RealtimeConfig::page_limit`](crate::RealtimeConfig::page_limit)
    /// allows.
    async fn page(&self, stream: &StreamKey, after: Offset) -> Result<Page, Unavailable>;
}

/// Messages between nodes. No call waits for the network. A resync with the store repairs what is lost.
pub trait Bus: Send + Sync {
    /// Subscribes to a stream's channel. The command is queued before this returns; the future completes when the
    /// subscription is in force, or the bus is down.
    fn follow(&self, stream: &StreamKey) -> BoxFuture<'static, ()>;

    /// Unsubscribes from a stream's channel.
    fn unfollow(&self, stream: &StreamKey);

    /// Whether this node receives everything that other nodes commit. While it does not, registries resync often.
    fn is_complete(&self) -> bool;

    /// Publishes committed events to other nodes, in the order of their commits.
    fn publish(&self, events: &[Arc<PublishedEvent>]);

    /// Has other nodes send a frame to all sockets of a stream.
    fn send_frame(&self, stream: &StreamKey, frame: &Bytes);

    /// Has other nodes drop the sockets of a stream that do not answer a ping.
    fn request_probe(&self, stream: &StreamKey);

    /// Asks other nodes to resync: an event may be committed that no message tells of.
    fn request_resync(&self);
}

/// Counts the connections of users and apps over all nodes.
pub trait ConnectionLimiter: Send + Sync {
    /// Acquires a connection: this node would then have `own` for the stream, and all nodes at most `limit`. The
    /// command is queued before this returns. If the other nodes' counts cannot be read, this node's own count decides.
    fn acquire(
        &self,
        stream: &StreamKey,
        own: &ConnectionCounts,
        limit: usize,
    ) -> BoxFuture<'static, Result<(), LimitReached>>;

    /// This node now has `own` for the stream.
    fn set_count(&self, stream: &StreamKey, own: &ConnectionCounts);

    /// This node's counts must be sent again in full.
    fn recount(&self);
}

/// The user or app has as many connections as it may have, perhaps on other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many connections")]
pub struct LimitReached;

/// The queue of deliveries in the store.
#[async_trait]
pub trait Deliveries: Send + Sync {
    /// Claims at most `limit` due deliveries of an active webhook, under this node's lease.
    async fn claim(&self, webhook: &OwnedWebhook, limit: usize) -> Result<Claim, Unavailable>;

    /// Records attempts of one webhook, in the order in which they ended.
    async fn record(&self, webhook: &OwnedWebhook, attempts: &[Attempt]) -> Result<(), Unavailable>;

    /// Makes deliveries due again that this node claimed and did not attempt.
    async fn release(&self, webhook: &OwnedWebhook, deliveries: &[DeliveryId]) -> Result<(), Unavailable>;

    /// Some active webhooks with pending deliveries.
    async fn with_work(&self) -> Result<Vec<OwnedWebhook>, Unavailable>;

    /// Makes deliveries due again whose leases have run out. Returns their webhooks.
    async fn free_leases(&self) -> Result<Vec<OwnedWebhook>, Unavailable>;
}

/// Sends deliveries.
#[async_trait]
pub trait WebhookSender: Send + Sync {
    /// Sends one HTTP request with its own deadline. Whatever goes wrong is in the report.
    async fn send(&self, target: &Target, delivery: &Delivery) -> Report;
}

/// Records that notifications reached their users.
pub trait DeliveryReceipts: Send + Sync {
    /// A socket of the event's user was sent an event that announces a notification. Must not block.
    fn pushed(&self, event: &PublishedEvent);
}

/// Until when a credential is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// The moment.
    pub at: Timestamp,
    /// The time until then, when the credential was checked.
    pub remaining: Duration,
}

/// Why a refresh was refused: a code of contract §2 and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshError {
    /// Such as `token_expired`.
    pub code: &'static str,
    /// For the developer of the client.
    pub message: String,
}

/// Verifies tokens that arrive on an open socket.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// Verifies that `token` is valid and gives `holder` exactly the rights it already had.
    async fn refresh(&self, token: &str, holder: &Identity) -> Result<Expiry, RefreshError>;
}
