//! What nodes tell each other: committed events, doubts, and that a credential changed. Hints all of them; whatever is
//! lost is healed from the store.

mod local;
mod message;
mod redis;

use async_trait::async_trait;
use oriva_hub_actors::{model::NodeId, ports::Bus};
use serde::Serialize;
use utoipa::ToSchema;

pub use self::redis::{RedisBus, RedisBusParts};
pub use local::LocalBus;

/// How a bus stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BusState {
    /// There is none: this node is alone, or its sessions look into the store for what others do.
    None,
    /// Redis answers, and this node hears itself over it.
    Connected,
    /// Redis does not answer. Sessions look into the store meanwhile.
    Away,
    /// It does, but a node that serves the same store is not heard over it: it has none, another one, or is cut off from
    /// it. Sessions look into the store.
    Split,
}

impl BusState {
    pub const ALL: [Self; 4] = [Self::None, Self::Connected, Self::Away, Self::Split];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Connected => "connected",
            Self::Away => "away",
            Self::Split => "split",
        }
    }
}

/// What the hub asks of a bus beside what sessions need of it.
#[async_trait]
pub trait NodeBus: Bus {
    fn state(&self) -> BusState;

    /// Has other nodes look at credentials now.
    fn credentials_changed(&self);

    /// The nodes that the store knows: those that are not heard may commit what nobody tells of.
    fn set_known_nodes(&self, others: &[NodeId]);

    /// Returns when what was to be told is on its way; soon, whatever happens.
    async fn flush(&self);
}
