//! Connections over all nodes: whether one more may be opened, and who is online elsewhere.

mod local;
mod redis;

use std::collections::HashSet;

use async_trait::async_trait;
use oriva_hub_actors::{
    model::{ConnectionCounts, StreamKey},
    ports::ConnectionLimiter,
};
use tokio::sync::oneshot;

pub use self::redis::RedisConnectionLimiter;
pub use local::LocalConnectionLimiter;

/// Other nodes cannot be asked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("other nodes cannot be asked")]
pub struct Unknown;

/// How this node counts connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// By itself, as it is configured.
    Alone,
    /// By itself, because Redis fails or refuses.
    Failing,
    /// Together with so many others.
    Shared {
        /// Other nodes that renewed their lease lately.
        others: usize,
    },
}

/// What this node holds, by stream.
pub type Snapshot = Vec<(StreamKey, ConnectionCounts)>;

/// Asks for what this node holds now.
pub type SnapshotRequest = oneshot::Sender<Snapshot>;

/// What the hub asks of the connection counts, beside what sockets need of them.
#[async_trait]
pub trait PresenceDirectory: ConnectionLimiter {
    /// What each other node holds for a stream.
    ///
    /// # Errors
    /// [`Unknown`].
    async fn elsewhere(&self, stream: &StreamKey) -> Result<Vec<ConnectionCounts>, Unknown>;

    /// How many users hold a connection on another node and none here.
    ///
    /// # Errors
    /// [`Unknown`].
    async fn users_elsewhere(&self, here: &HashSet<String>) -> Result<usize, Unknown>;

    /// How this node counts now.
    fn counting(&self) -> Counting;

    /// Gives back everything that this node holds: it stops.
    async fn leave(&self);
}
