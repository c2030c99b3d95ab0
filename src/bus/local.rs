//! The bus of a node without Redis. Alone on its store it needs none; otherwise its registries ask the store again and again.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use oriva_hub_actors::{
    model::{NodeId, StreamKey},
    ports::Bus,
    protocol::PublishedEvent,
};

use super::{NodeBus, state::BusState};

/// No bus.
pub struct LocalBus {
    is_alone: bool,
}

impl LocalBus {
    /// `is_alone`: nobody else writes to this node's store.
    #[must_use]
    pub fn new(is_alone: bool) -> Self {
        Self { is_alone }
    }
}

impl Bus for LocalBus {
    fn follow(&self, _: &StreamKey) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }

    fn unfollow(&self, _: &StreamKey) {}

    fn is_complete(&self) -> bool {
        self.is_alone
    }

    fn publish(&self, _: &[Arc<PublishedEvent>]) {}

    fn send_frame(&self, _: &StreamKey, _: &Bytes) {}

    fn request_probe(&self, _: &StreamKey) {}

    fn request_resync(&self) {}
}

#[async_trait]
impl NodeBus for LocalBus {
    fn state(&self) -> BusState {
        BusState::None
    }

    fn heard(&self) -> usize {
        0
    }

    fn credentials_changed(&self) {}

    fn set_known_nodes(&self, _: &[NodeId]) {}

    async fn flush(&self) {}
}
