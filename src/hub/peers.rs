//! The other nodes: how this one reaches them, and which the store last reported.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use oriva_hub_actors::model::NodeId;

use crate::{bus::NodeBus, presence::PresenceDirectory, store::NodeBeat};

/// This node among the others.
#[derive(Clone)]
pub struct Cluster {
    /// This node, until it ends.
    pub node: NodeId,
    /// Messages between nodes.
    pub bus: Arc<dyn NodeBus>,
    /// Connections over all nodes.
    pub presence: Arc<dyn PresenceDirectory>,
}

/// The other nodes, as the store last reported them.
#[derive(Default)]
pub(super) struct Peers {
    beats: Mutex<Vec<NodeBeat>>,
    has_left: AtomicBool,
    is_split: AtomicBool,
    beating: tokio::sync::Mutex<()>,
}

impl Peers {
    pub(super) fn list(&self) -> Vec<NodeBeat> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, beats: Vec<NodeBeat>) {
        *self.beats.lock().unwrap_or_else(PoisonError::into_inner) = beats;
    }

    /// Whether one of them is connected to a bus.
    pub(super) fn have_bus(&self) -> bool {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|beat| beat.on_bus)
    }

    /// Notes whether the bus is split, and logs where that changed.
    pub(super) fn note_split(&self, is_split: bool) {
        match (self.is_split.swap(is_split, Ordering::SeqCst), is_split) {
            (false, true) => {
                let nodes: Vec<_> = self.list().iter().map(|beat| beat.node.to_string()).collect();
                let others = nodes.join(", ");
                tracing::warn!(
                    others,
                    "nodes of one store do not hear each other: give all of them the same redis.url"
                );
            }
            (true, false) => tracing::info!("nodes hear each other again"),
            _ => {}
        }
    }

    /// Held while this node writes its heartbeat or removes itself.
    pub(super) async fn beating(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.beating.lock().await
    }

    /// Whether this node has removed itself.
    pub(super) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::SeqCst)
    }

    pub(super) fn set_left(&self) {
        self.has_left.store(true, Ordering::SeqCst);
    }
}
