//! Rows as the hub sees them, and what may be asked of them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use oriva_hub_actors::{
    model::{AppId, Category, Event, KeyId, Offset, StreamKey, Timestamp},
    protocol::PublishedEvent,
};

/// Requests a window, by rate-limit class, where an app's differ from the configuration.
pub type LimitOverrides = BTreeMap<String, u32>;

/// A tenant.
#[derive(Debug, Clone)]
pub struct App {
    /// The app's id.
    pub id: AppId,
    /// Shown beside its notifications.
    pub name: String,
    /// Shown beside its notifications.
    pub icon_url: Option<String>,
    /// Whether its keys and tokens open anything.
    pub is_active: bool,
    /// Whether it sees the events of all apps.
    pub is_platform: bool,
    /// Limits that differ from the configured ones.
    pub limits: LimitOverrides,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// An app to create.
#[derive(Debug, Clone)]
pub struct NewApp {
    /// The app's id.
    pub id: AppId,
    /// Shown beside its notifications.
    pub name: String,
    /// Shown beside its notifications.
    pub icon_url: Option<String>,
    /// Whether it sees the events of all apps.
    pub is_platform: bool,
    /// Limits that differ from the configured ones.
    pub limits: LimitOverrides,
}

/// A change of an app; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct AppChange {
    /// The new name.
    pub name: Option<String>,
    /// `Some(None)` takes the icon away.
    pub icon_url: Option<Option<String>>,
    /// Whether its keys and tokens open anything.
    pub is_active: Option<bool>,
    /// Whether it sees the events of all apps.
    pub is_platform: Option<bool>,
    /// All of its limits anew.
    pub limits: Option<LimitOverrides>,
}

/// An API key, without the key.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// The key's id.
    pub id: KeyId,
    /// The app that it belongs to.
    pub app_id: AppId,
    /// The first characters, by which people recognise it.
    pub prefix: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was presented last. Up to a minute late.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// A key to create.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The key's id.
    pub id: KeyId,
    /// The app that it belongs to.
    pub app_id: AppId,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// The first characters of the secret.
    pub prefix: String,
}

/// Who does something that is written down.
#[derive(Debug, Clone)]
pub struct Audit {
    /// `admin`, `cli`, `first-run`, or an app's id.
    pub actor: String,
    /// Where the request came from.
    pub ip: Option<IpAddr>,
}

/// Which of an app's events are asked for.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only of this category.
    pub category: Option<Category>,
    /// Bare or full.
    pub event_type: Option<String>,
    /// Only for this user.
    pub user_id: Option<String>,
    /// Only about this entity.
    pub entity_id: Option<String>,
    /// Only with this `timestamp` or a later one.
    pub start: Option<Timestamp>,
    /// Only with this `timestamp` or an earlier one.
    pub end: Option<Timestamp>,
    /// Greatest number of events.
    pub limit: u32,
    /// Events to pass over.
    pub offset: u64,
    /// Only older events than this: where the page before ended.
    pub before: Option<EventPosition>,
}

/// The position of an event in lists. Each list goes by the part that its filter has an index for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventPosition {
    /// Its offset in its app's stream.
    pub app_offset: Offset,
    /// Its offset in its user's stream; `None` for a broadcast.
    pub user_offset: Option<Offset>,
    /// When it was stored.
    pub created_at: Timestamp,
}

impl EventPosition {
    /// The position of this event.
    #[must_use]
    pub fn from_event(event: &Event) -> Self {
        Self { app_offset: event.offsets.app, user_offset: event.offsets.user, created_at: event.created_at }
    }
}

impl EventFilter {
    /// A full type taken apart: `notification.created` is `created` in category `notification`.
    #[must_use]
    pub fn full_type(&self) -> Option<(Category, &str)> {
        let (category, bare) = self.event_type.as_deref()?.split_once('.')?;
        Some((Category::parse(category).ok()?, bare))
    }
}

/// The events of a stream after an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// The stream.
    pub stream: StreamKey,
    /// The offset after which the page begins.
    pub after: Offset,
}

/// A page of events, newest first.
#[derive(Debug, Clone)]
pub struct EventPage {
    /// The events, newest first.
    pub events: Vec<Arc<PublishedEvent>>,
    /// Counted up to one past the cap.
    pub total: u64,
    /// Whether the page ends at a bound: of its limit, or of its bytes.
    pub is_full: bool,
}
