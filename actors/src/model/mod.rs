//! Plain values that everything else uses: ids, events, streams, patterns, identities.

mod connection_counts;
mod event;
mod identity;
mod ids;
mod json;
mod json_object;
mod pattern;
mod stream;
mod timestamp;
mod trace_parent;
mod webhook;

pub use connection_counts::ConnectionCounts;
pub use event::{Category, Event, EventType, Offsets};
pub use identity::{Grant, Identity, Scope};
pub use ids::{AppId, ConnectionId, DeliveryId, EventId, KeyId, NodeId, NotificationId, UserId, WebhookId};
pub use json::{Entry, entries, parse_json, whole_number};
pub use json_object::JsonObject;
pub use pattern::{EventPattern, MAX_PATTERNS, unmatchable_patterns};
pub use stream::{Offset, StreamKey, StreamKind};
pub use timestamp::Timestamp;
pub use trace_parent::TraceParent;
pub use webhook::OwnedWebhook;

/// A value that breaks the rule of its type. The text says what it must be, and can be sent to a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Invalid {
    pub(crate) fn new(rule: impl Into<String>) -> Self {
        Self(rule.into())
    }
}
