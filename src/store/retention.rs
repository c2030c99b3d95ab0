//! Retention: moving and deleting old rows (data-model, 'Retention').
//!
//! Ids are UUIDv7, so all rows older than a moment are a range of the primary key. That needs no further index, and no
//! row that stays is read.

use async_trait::async_trait;
use oriva_hub_actors::model::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::StoreError;

/// The kinds of rows that have a retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RetentionClass {
    /// Moved to the archive table.
    Events,
    /// Moved to the archive table with their states, once they are dismissed or expired.
    Notifications,
    /// Deleted with any status, unless in flight.
    Deliveries,
    /// Deleted.
    DeliveryLog,
    /// Moved to the archive table.
    AuditLog,
}

impl RetentionClass {
    /// Every class, in the order in which they are retired.
    pub const ALL: [Self; 5] = [Self::Events, Self::Notifications, Self::Deliveries, Self::DeliveryLog, Self::AuditLog];

    /// The name in the log and in commands.
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

/// The least id that can have been made at `moment` or later (RFC 9562 §5.7).
pub(super) fn first_id_at(moment: Timestamp) -> Uuid {
    let ms = u64::try_from(moment.unix_ms()).unwrap_or(0);
    Uuid::from_u128(u128::from(ms) << 80)
}

/// The progress of a pass over old rows. A pass examines each row once, whatever happens to it.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The last row that was examined; nil before the first.
    pub after: Uuid,
    /// Only what is older than this.
    pub before: Timestamp,
}

impl Range {
    /// All rows older than a moment.
    #[must_use]
    pub fn until(before: Timestamp) -> Self {
        Self { after: Uuid::nil(), before }
    }

    pub(super) fn end(self) -> Uuid {
        first_id_at(self.before)
    }
}

/// The result of one step of a pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Step {
    /// The last row that was examined. `None` if there was none.
    pub last: Option<Uuid>,
    /// Number of rows that were changed.
    pub done: u64,
}

/// Old rows.
#[async_trait]
pub trait RetentionStore: Send + Sync {
    /// Number of rows older than `before` that a pass would retire.
    async fn count_retired(&self, what: RetentionClass, before: Timestamp) -> Result<u64, StoreError>;

    /// Examines the next `limit` rows older than `before`. In one transaction it retires those that may go and that no
    /// other node has locked.
    async fn retire(&self, what: RetentionClass, range: Range, limit: u32) -> Result<Step, StoreError>;

    /// Examines the next `limit` notifications older than `before`. Those that have neither ended nor an `expires_at`
    /// of their own get `before` as their `expires_at`, so they expire now. So clients hear of it before they are
    /// archived.
    async fn expire_retired(&self, range: Range, limit: u32) -> Result<Step, StoreError>;

    /// Returns the export in progress for this table, or starts one with the oldest `limit` rows. The start is
    /// committed before this returns.
    async fn begin_export(&self, table: ArchiveTable, limit: u32) -> Result<Option<Export>, StoreError>;

    /// Deletes the rows of an export whose object is stored. Does nothing if another node already did.
    async fn finish_export(&self, table: ArchiveTable, id: Uuid) -> Result<(), StoreError>;
}

/// An archive table. Its rows can leave the database as newline-delimited JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArchiveTable {
    /// Published events.
    Events,
    /// Content of notifications.
    Notifications,
    /// Their states.
    NotificationStates,
    /// The audit log.
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
    /// Every table with an archive.
    pub const ALL: [Self; 4] = [Self::Events, Self::Notifications, Self::NotificationStates, Self::AuditLog];

    /// The name in the object's path.
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

    /// The text of a row's object, in SQL. `value` gives the JSON text of a column. The databases' own functions for
    /// objects would write JSON columns anew.
    pub(super) fn object(self, value: impl Fn(&str, Shape) -> String) -> String {
        let pairs = self.columns().iter().map(|(name, shape)| format!("'\"{name}\":' || {}", value(name, *shape)));
        format!("'{{' || {} || '}}'", pairs.collect::<Vec<_>>().join(" || ',' || "))
    }
}

/// Rows that leave an archive table. They stay the same, under the same name, until they are deleted, however often an
/// export is repeated and by whichever node. So an object that is written twice is one object.
#[derive(Debug)]
pub struct Export {
    /// The export's id, in the object's path.
    pub id: Uuid,
    /// The table that its rows come from.
    pub table: ArchiveTable,
    /// Number of its rows.
    pub rows: u64,
    /// One JSON object for each row, each followed by a newline.
    pub lines: String,
}

impl Export {
    pub(super) fn new(id: Uuid, table: ArchiveTable, rows: &[String]) -> Self {
        let mut lines = String::with_capacity(rows.iter().map(|row| row.len() + 1).sum());
        for row in rows {
            // A line break can only stand between the tokens of a client's object.
            lines.extend(row.split(['\r', '\n']));
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

/// Ids in one byte string, as an export in progress stores them.
pub(super) fn pack(ids: &[Uuid]) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.as_bytes()).collect()
}

pub(super) fn unpack(bytes: &[u8]) -> Vec<Uuid> {
    let (ids, _) = bytes.as_chunks::<16>();
    ids.iter().map(|id| Uuid::from_bytes(*id)).collect()
}
