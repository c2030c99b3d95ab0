//! What becomes of rows past retention (data-model, 'Retention').
//!
//! Ids are UUIDv7, so what is older than a moment is a range of the primary key: no index has to be kept for it, and none
//! is walked past what stays.

use async_trait::async_trait;
use oriva_hub_actors::model::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::StoreError;

/// What retention is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retired {
    /// Moved to their archive table.
    Events,
    /// Moved to theirs, with what became of them, once they are over.
    Notifications,
    /// Deleted, whatever their outcome, but for those under way.
    Deliveries,
    /// Deleted.
    DeliveryLog,
}

impl Retired {
    pub const ALL: [Self; 4] = [Self::Events, Self::Notifications, Self::Deliveries, Self::DeliveryLog];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Notifications => "notifications",
            Self::Deliveries => "deliveries",
            Self::DeliveryLog => "delivery_log",
        }
    }
}

/// The least id that was made at `moment` or later (RFC 9562 §5.7).
pub(super) fn first_id_at(moment: Timestamp) -> Uuid {
    let ms = u64::try_from(moment.unix_ms()).unwrap_or(0);
    Uuid::from_u128(u128::from(ms) << 80)
}

/// Rows past retention.
#[async_trait]
pub trait RetentionStore: Send + Sync {
    /// How many rows are older than `before`.
    async fn count_retired(&self, what: Retired, before: Timestamp) -> Result<u64, StoreError>;

    /// Retires at most `limit` rows older than `before` in one transaction. How many: fewer than `limit` where none are
    /// left, or another node has them in hand.
    async fn retire(&self, what: Retired, before: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// Has notifications older than `before` that are not over yet expire at `before`, which makes them due now: so badges
    /// hear of it before they are archived. How many.
    async fn expire_retired(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;
}
