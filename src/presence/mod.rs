//! Connection places over all nodes: who may open one more socket, and who is online elsewhere.

mod local;
mod redis;

use std::collections::HashSet;

use async_trait::async_trait;
use oriva_hub_actors::{
    model::{ConnectionCounts, StreamKey},
    ports::ConnectionLimiter,
};

pub use self::redis::{RedisConnectionLimiter, RedisLimiterParts};
pub use local::LocalConnectionLimiter;

/// What other nodes hold cannot be said now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("other nodes cannot be asked")]
pub struct Unknown;

/// What the hub asks of places beside what sockets need of them.
#[async_trait]
pub trait Presence: ConnectionLimiter {
    /// What other nodes hold for a stream.
    async fn elsewhere(&self, stream: &StreamKey) -> Result<Vec<ConnectionCounts>, Unknown>;

    /// How many users other nodes hold places who are not among those `here`.
    async fn users_elsewhere(&self, here: &HashSet<String>) -> Result<usize, Unknown>;

    /// Gives back all that this node holds: it stops.
    async fn leave(&self);
}
