//! No bus. A node with a store of its own hears of everything; one that shares its store looks into it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use oriva_hub_actors::{
    model::{NodeId, PublishedEvent, StreamKey},
    ports::Bus,
};

use super::{BusState, NodeBus};

/// The bus of a node without Redis.
pub struct LocalBus {
    alone: bool,
}

impl LocalBus {
    /// `alone`: nobody else writes to this node's store.
    #[must_use]
    pub fn new(alone: bool) -> Self {
        Self { alone }
    }
}

impl Bus for LocalBus {
    fn follow(&self, _: &StreamKey) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }

    fn unfollow(&self, _: &StreamKey) {}

    fn is_complete(&self) -> bool {
        self.alone
    }

    fn publish(&self, _: &[Arc<PublishedEvent>]) {}

    fn send_frame(&self, _: &StreamKey, _: &Bytes) {}

    fn request_resync(&self) {}
}

#[async_trait]
impl NodeBus for LocalBus {
    fn state(&self) -> BusState {
        BusState::None
    }

    fn credentials_changed(&self) {}

    fn set_known_nodes(&self, _: &[NodeId]) {}

    async fn flush(&self) {}
}
