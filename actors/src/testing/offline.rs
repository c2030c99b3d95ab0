//! Ports of a node that is alone: nobody on the bus, no limit, no tokens.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    Ports, RealtimeConfig,
    model::{ConnectionCounts, Identity, StreamKey},
    ports::{Bus, ConnectionLimiter, Credentials, DeliveryReceipts, EventHistory, Expiry, LimitReached, RefreshError},
    protocol::PublishedEvent,
};

/// The defaults, with one shard and no compression.
#[must_use]
pub fn realtime_config() -> RealtimeConfig {
    RealtimeConfig {
        epoch: "e1".into(),
        shards: 1,
        max_connections: 10,
        heartbeat: Duration::from_secs(30),
        max_frame_bytes: 65_536,
        max_backlog_bytes: 262_144,
        compress_from: None,
    }
}

/// Ports with this history, and nobody else outside.
#[must_use]
pub fn offline_ports(history: Arc<dyn EventHistory>) -> Ports {
    let nobody = Arc::new(Nobody);
    Ports { history, credentials: nobody.clone(), receipts: nobody.clone(), bus: nobody.clone(), limiter: nobody }
}

/// Nobody outside.
struct Nobody;

impl Bus for Nobody {
    fn follow(&self, _: &StreamKey) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn unfollow(&self, _: &StreamKey) {}

    fn is_complete(&self) -> bool {
        true
    }

    fn publish(&self, _: &[Arc<PublishedEvent>]) {}

    fn send_frame(&self, _: &StreamKey, _: &Bytes) {}

    fn request_probe(&self, _: &StreamKey) {}

    fn request_resync(&self) {}
}

impl ConnectionLimiter for Nobody {
    fn acquire(&self, _: &StreamKey, _: &ConnectionCounts, _: usize) -> BoxFuture<'static, Result<(), LimitReached>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn set_count(&self, _: &StreamKey, _: &ConnectionCounts) {}

    fn recount(&self) {}
}

impl DeliveryReceipts for Nobody {
    fn pushed(&self, _: &PublishedEvent) {}
}

#[async_trait]
impl Credentials for Nobody {
    async fn refresh(&self, _: &str, _: &Identity) -> Result<Expiry, RefreshError> {
        Err(RefreshError { code: "unauthenticated", message: String::new() })
    }
}
