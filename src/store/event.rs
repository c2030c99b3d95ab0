//! An event before it is stored.

use oriva_hub_actors::model::{AppId, Category, EventId, EventType, JsonObject, NotificationId, Timestamp, UserId};

/// A validated event that is not yet stored. Its offsets and `created_at` come from the transaction that stores it.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// A UUIDv7, given when the event was accepted.
    pub id: EventId,
    /// The app that publishes it.
    pub app_id: AppId,
    /// Whether that is a platform app.
    pub from_platform: bool,
    /// `None` for a broadcast.
    pub user_id: Option<UserId>,
    /// The first part of its full type.
    pub category: Category,
    /// The rest of its full type.
    pub event_type: EventType,
    /// What it is about: the kind, …
    pub entity_type: String,
    /// … and the id.
    pub entity_id: String,
    /// What the app says of it.
    pub data: JsonObject,
    /// When it was accepted.
    pub timestamp: Timestamp,
}

impl NewEvent {
    /// Category and type: `notification.created`.
    pub(super) fn full_type(&self) -> String {
        format!("{}.{}", self.category.as_str(), self.event_type.as_str())
    }

    /// The notification that its app says the user dismissed, if it says so.
    pub(super) fn dismisses(&self) -> Option<NotificationId> {
        let is_dismissal = self.category == Category::Notification && self.event_type.as_str() == "dismissed";
        let id = self.entity_id.parse().ok().map(NotificationId).filter(|id| id.to_string() == self.entity_id);
        id.filter(|_| is_dismissal)
    }

    /// Bytes of its longest parts.
    pub(super) fn bytes(&self) -> usize {
        self.data.as_str().len() + self.entity_id.len() + self.entity_type.len()
    }
}
