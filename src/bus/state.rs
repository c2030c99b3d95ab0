//! How a bus stands.

use serde::Serialize;
use utoipa::ToSchema;

/// How a bus stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BusState {
    /// No Redis is configured. The node is alone, or its registries ask the store again and again.
    None,
    /// Redis answers, and this node hears every node that serves the same store.
    Connected,
    /// Redis does not answer. Registries ask the store meanwhile.
    Away,
    /// Redis answers, but a node that serves the same store is not heard: it has no Redis, another one, or is cut off from
    /// it. Registries ask the store meanwhile.
    Split,
}

impl BusState {
    /// Every state, for the metric.
    pub const ALL: [Self; 4] = [Self::None, Self::Connected, Self::Away, Self::Split];

    /// The word on the wire and in the metric.
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
