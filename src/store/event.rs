//! An event before it is stored.

use oriva_hub_actors::model::{AppId, Category, EventId, EventType, JsonObject, Timestamp, UserId};

/// A validated event that is not yet stored. Its offsets and `created_at` come from the transaction that stores it.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub id: EventId,
    pub app_id: AppId,
    pub from_platform: bool,
    /// `None` for a broadcast.
    pub user_id: Option<UserId>,
    pub category: Category,
    pub event_type: EventType,
    pub entity_type: String,
    pub entity_id: String,
    pub data: JsonObject,
    pub timestamp: Timestamp,
}

impl NewEvent {
    /// Bytes of its longest parts.
    pub(super) fn bytes(&self) -> usize {
        self.data.as_str().len() + self.entity_id.len() + self.entity_type.len()
    }
}
