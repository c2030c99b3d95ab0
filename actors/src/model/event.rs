//! Events: what apps publish.

use serde::Serialize;
use utoipa::ToSchema;

use super::{AppId, EventId, Invalid, JsonObject, Offset, StreamKind, Timestamp, TraceParent, UserId};

/// What an event is about; the first segment of its full type (contract §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(description = "What an event is about; the first segment of its full type.")]
pub enum Category {
    /// About a notification; the hub publishes these itself.
    Notification,
    /// About a user.
    User,
    /// About a session of a user in an app.
    Session,
    /// About a transaction.
    Transaction,
}

impl Category {
    /// Every category.
    pub const ALL: [Self; 4] = [Self::Notification, Self::User, Self::Session, Self::Transaction];

    /// The name, as events and patterns have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notification => "notification",
            Self::User => "user",
            Self::Session => "session",
            Self::Transaction => "transaction",
        }
    }

    /// Parses a category's name.
    ///
    /// # Errors
    /// [`Invalid`] with the list of names.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|category| category.as_str() == text)
            .ok_or_else(|| Invalid::new("must be one of notification, user, session, transaction"))
    }
}

/// A bare event type, without its category: `dismissed` of `notification.dismissed`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[schema(value_type = String, pattern = r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$", max_length = 100, example = "created")]
pub struct EventType(Box<str>);

impl EventType {
    /// Parses `^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$`, at most 100 characters. A prefix that is the category's own name is
    /// removed: `notification.created` under `notification` is `created` (contract §4).
    ///
    /// # Errors
    /// [`Invalid`] with the rule.
    pub fn parse(text: &str, category: Category) -> Result<Self, Invalid> {
        let word =
            |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if text.len() > 100 || !text.starts_with(|c: char| c.is_ascii_lowercase()) || !text.split('.').all(word) {
            return Err(Invalid::new(
                "must be 1 to 100 characters: lower-case words of a-z, 0-9 and _, joined by dots, the first beginning with a letter",
            ));
        }
        let bare = text.strip_prefix(category.as_str()).and_then(|rest| rest.strip_prefix('.')).unwrap_or(text);
        if !bare.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(Invalid::new("must begin with a letter behind the category's own name too"));
        }
        Ok(Self(bare.into()))
    }

    /// A type from the store, which was valid when it was written.
    #[must_use]
    pub fn from_store(text: &str) -> Self {
        Self(text.into())
    }

    /// The type without its category, such as `created`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An event's offset in each stream that contains it: always its app's stream, and either its user's or the broadcast
/// stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    /// In the app's stream.
    pub app: Offset,
    /// In the user's stream; `None` for a broadcast.
    pub user: Option<Offset>,
    /// In the broadcast stream; `None` for an event of a user.
    pub broadcast: Option<Offset>,
}

/// A committed event. Immutable.
#[derive(Debug, Clone)]
pub struct Event {
    /// A UUIDv7, given when the event was accepted.
    pub id: EventId,
    /// The app that published it.
    pub app_id: AppId,
    /// `None` in a broadcast.
    pub user_id: Option<UserId>,
    /// The first part of its full type.
    pub category: Category,
    /// The rest of its full type.
    pub event_type: EventType,
    /// What it is about: the kind, …
    pub entity_type: String,
    /// … and the id.
    pub entity_id: String,
    /// What the app says of it: at most 64 KiB of JSON.
    pub data: JsonObject,
    /// When the hub accepted it.
    pub timestamp: Timestamp,
    /// When the hub stored it.
    pub created_at: Timestamp,
    /// Whether its app is a platform app. Broadcasts of a platform app go to every user.
    pub from_platform: bool,
    /// Where it stands in its streams.
    pub offsets: Offsets,
    /// The trace context of the request that published it, if any.
    pub trace: Option<TraceParent>,
}

impl Event {
    /// `notification.dismissed`: how subscribers name it.
    #[must_use]
    pub fn full_type(&self) -> String {
        format!("{}.{}", self.category.as_str(), self.event_type.as_str())
    }

    /// Whether it is `notification.created`.
    #[must_use]
    pub fn announces_notification(&self) -> bool {
        self.category == Category::Notification && self.event_type.as_str() == "created"
    }

    /// Its offset in a stream of this kind; `None` if it is in none.
    #[must_use]
    pub fn offset_in(&self, stream: StreamKind) -> Option<Offset> {
        match stream {
            StreamKind::App => Some(self.offsets.app),
            StreamKind::User => self.offsets.user,
            StreamKind::Broadcast => self.offsets.broadcast,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_categorys_name_is_taken_off_the_type() {
        let parse = |text| EventType::parse(text, Category::Notification).map(|t| t.as_str().to_owned());
        assert_eq!(parse("notification.created").unwrap(), "created");
        assert_eq!(parse("created").unwrap(), "created");
        assert_eq!(parse("user.created").unwrap(), "user.created");
        assert_eq!(parse("notification").unwrap(), "notification");
        for bad in ["", "Created", "1st", "_x", "a..b", "a.", ".a", "a-b", "a b", "notification.1x", &"a".repeat(101)] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
