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
pub enum RetentionClass {
    /// Moved to their archive table.
    Events,
    /// Moved to theirs, with what became of them, once they are over.
    Notifications,
    /// Deleted, whatever their outcome, but for those under way.
    Deliveries,
    /// Deleted.
    DeliveryLog,
    /// Moved to its archive table.
    AuditLog,
}

impl RetentionClass {
    pub const ALL: [Self; 5] = [Self::Events, Self::Notifications, Self::Deliveries, Self::DeliveryLog, Self::AuditLog];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Notifications => "notifications",
            Self::Deliveries => "deliveries",
            Self::DeliveryLog => "delivery_log",
            Self::AuditLog => "audit_log",
        }
    }
}

/// The least id that was made at `moment` or later (RFC 9562 §5.7).
pub(super) fn first_id_at(moment: Timestamp) -> Uuid {
    let ms = u64::try_from(moment.unix_ms()).unwrap_or(0);
    Uuid::from_u128(u128::from(ms) << 80)
}

/// Where a pass over rows past retention is: what it looked at it does not look at again, whatever became of it.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The last row that was looked at; nil before the first.
    pub after: Uuid,
    pub before: Timestamp,
}

impl Range {
    /// All that is older than a moment.
    #[must_use]
    pub fn until(before: Timestamp) -> Self {
        Self { after: Uuid::nil(), before }
    }

    pub(super) fn end(self) -> Uuid {
        first_id_at(self.before)
    }
}

/// A step of such a pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Step {
    /// The last row that was looked at; `None` where there was none.
    pub last: Option<Uuid>,
    /// Rows that something was done with.
    pub done: u64,
}

/// Rows past retention.
#[async_trait]
pub trait RetentionStore: Send + Sync {
    /// How many rows older than `before` are, or will be made, over.
    async fn count_retired(&self, what: RetentionClass, before: Timestamp) -> Result<u64, StoreError>;

    /// Looks at the next `limit` rows older than `before` and retires, in one transaction, those that are over and that no
    /// other node has in hand.
    async fn retire(&self, what: RetentionClass, range: Range, limit: u32) -> Result<Step, StoreError>;

    /// Looks at the next `limit` notifications older than `before`. Those that are not over and never would be by
    /// themselves expire at `before`, which makes them due now: so badges hear of it before they are archived.
    async fn expire_retired(&self, range: Range, limit: u32) -> Result<Step, StoreError>;

    /// The rows of an archive table that leave it next: those that were begun with and are still there, or the oldest, at
    /// most `limit`. Begun is committed when it returns.
    async fn begin_export(&self, table: ArchiveTable, limit: u32) -> Result<Option<Export>, StoreError>;

    /// Deletes rows whose object is kept. Nothing where another node did.
    async fn finish_export(&self, table: ArchiveTable, id: Uuid) -> Result<(), StoreError>;
}

/// A table of cold rows that can leave the database as newline JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArchiveTable {
    Events,
    Notifications,
    NotificationStates,
    AuditLog,
}

/// How a column is written in JSON.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// A string or a number, as it stands.
    Plain,
    Id,
    Json,
    Flag,
    /// RFC 3339, UTC, milliseconds.
    Moment,
    Address,
}

impl ArchiveTable {
    pub const ALL: [Self; 4] = [Self::Events, Self::Notifications, Self::NotificationStates, Self::AuditLog];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Notifications => "notifications",
            Self::NotificationStates => "notification_states",
            Self::AuditLog => "audit_log",
        }
    }

    pub(super) const fn table(self) -> &'static str {
        match self {
            Self::Events => "platform_events_archive",
            Self::Notifications => "platform_notifications_archive",
            Self::NotificationStates => "notification_state_archive",
            Self::AuditLog => "audit_log_archive",
        }
    }

    pub(super) const fn columns(self) -> &'static [(&'static str, Shape)] {
        use Shape::{Address, Flag, Id, Json, Moment, Plain};
        match self {
            Self::Events => &[
                ("id", Id),
                ("app_id", Plain),
                ("user_id", Plain),
                ("event_category", Plain),
                ("event_type", Plain),
                ("entity_type", Plain),
                ("entity_id", Plain),
                ("event_data", Json),
                ("from_platform", Flag),
                ("app_offset", Plain),
                ("user_offset", Plain),
                ("broadcast_offset", Plain),
                ("ip_address", Address),
                ("user_agent", Plain),
                ("timestamp", Moment),
                ("created_at", Moment),
                ("traceparent", Plain),
            ],
            Self::Notifications => &[
                ("id", Id),
                ("app_id", Plain),
                ("external_id", Plain),
                ("user_id", Plain),
                ("title", Plain),
                ("body", Plain),
                ("notification_type", Plain),
                ("priority", Plain),
                ("action_url", Plain),
                ("action_label", Plain),
                ("image_url", Plain),
                ("icon_url", Plain),
                ("context_data", Json),
                ("expires_at", Moment),
                ("created_at", Moment),
                ("updated_at", Moment),
            ],
            Self::NotificationStates => &[
                ("id", Id),
                ("notification_id", Id),
                ("user_id", Plain),
                ("app_id", Plain),
                ("status", Plain),
                ("sent_at", Moment),
                ("delivered_at", Moment),
                ("read_at", Moment),
                ("dismissed_at", Moment),
                ("clicked_at", Moment),
                ("expired_at", Moment),
                ("dismissed_from", Plain),
                ("click_action", Plain),
                ("expires_at", Moment),
                ("created_at", Moment),
                ("updated_at", Moment),
            ],
            Self::AuditLog => &[
                ("id", Id),
                ("actor", Plain),
                ("action", Plain),
                ("subject", Plain),
                ("app_id", Plain),
                ("ip_address", Address),
                ("at", Moment),
            ],
        }
    }

    /// The object of a row, in SQL: `function('column', value, …)`.
    pub(super) fn object(self, function: &str, value: impl Fn(&str, Shape) -> String) -> String {
        let pairs = self.columns().iter().map(|(name, shape)| format!("'{name}', {}", value(name, *shape)));
        format!("{function}({})", pairs.collect::<Vec<_>>().join(", "))
    }
}

/// ArchiveTable rows on their way out: the same rows under the same name until they are gone, however often it is begun and by
/// whichever node, so that an object written twice is one object.
#[derive(Debug)]
pub struct Export {
    pub id: Uuid,
    pub table: ArchiveTable,
    pub rows: u64,
    /// One JSON object a row, each ended by a newline.
    pub lines: String,
}

impl Export {
    pub(super) fn new(id: Uuid, table: ArchiveTable, rows: &[String]) -> Self {
        let mut lines = String::with_capacity(rows.iter().map(|row| row.len() + 1).sum());
        for row in rows {
            lines.push_str(row);
            lines.push('\n');
        }
        Self { id, table, rows: rows.len() as u64, lines }
    }

    /// The name of its object: `events/2026-11-23/ID.ndjson.gz`.
    #[must_use]
    pub fn name(&self) -> String {
        let ms = i64::try_from(self.id.as_u128() >> 80).unwrap_or(0);
        let day = Timestamp::from_unix_ms(ms).as_datetime().date_naive();
        format!("{}/{day}/{}.ndjson.gz", self.table.as_str(), self.id)
    }
}

/// Ids one after the other, as they are kept while their rows leave.
pub(super) fn pack(ids: &[Uuid]) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.as_bytes()).collect()
}

pub(super) fn unpack(bytes: &[u8]) -> Vec<Uuid> {
    let (ids, _) = bytes.as_chunks::<16>();
    ids.iter().map(|id| Uuid::from_bytes(*id)).collect()
}
