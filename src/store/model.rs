//! Rows as the hub sees them, and what may be asked of them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use oriva_hub_actors::{
    model::{AppId, Category, KeyId, Offset, Timestamp},
    protocol::PublishedEvent,
};

/// Requests a window, by rate-limit class, where an app's differ from the configuration.
pub type LimitOverrides = BTreeMap<String, u32>;

/// A tenant.
#[derive(Debug, Clone)]
pub struct App {
    pub id: AppId,
    pub name: String,
    pub icon_url: Option<String>,
    pub is_active: bool,
    pub is_platform: bool,
    pub limits: LimitOverrides,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Debug, Clone)]
pub struct NewApp {
    pub id: AppId,
    pub name: String,
    pub icon_url: Option<String>,
    pub is_platform: bool,
    pub limits: LimitOverrides,
}

/// A change of an app; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct AppChange {
    pub name: Option<String>,
    /// `Some(None)` takes the icon away.
    pub icon_url: Option<Option<String>>,
    pub is_active: Option<bool>,
    pub is_platform: Option<bool>,
    pub limits: Option<LimitOverrides>,
}

/// An API key, without the key.
#[derive(Debug, Clone)]
pub struct ApiKey {
    pub id: KeyId,
    pub app_id: AppId,
    pub prefix: String,
    pub created_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub struct NewKey {
    pub id: KeyId,
    pub app_id: AppId,
    pub hash: [u8; 32],
    pub prefix: String,
}

/// Who does something that is written down.
#[derive(Debug, Clone)]
pub struct Audit {
    /// `admin`, `cli`, or an app's id.
    pub actor: String,
    pub ip: Option<IpAddr>,
}

/// Which of an app's events are asked for.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    pub category: Option<Category>,
    /// Bare or full.
    pub event_type: Option<String>,
    pub user_id: Option<String>,
    pub entity_id: Option<String>,
    /// Inclusive.
    pub start: Option<Timestamp>,
    /// Inclusive.
    pub end: Option<Timestamp>,
    pub limit: u32,
    pub offset: u64,
    /// Only what stands before this offset in the app's stream: where the page before ended.
    pub before: Option<Offset>,
}

impl EventFilter {
    /// A full type taken apart: `notification.created` is `created` in category `notification`.
    #[must_use]
    pub fn full_type(&self) -> Option<(Category, &str)> {
        let (category, bare) = self.event_type.as_deref()?.split_once('.')?;
        Some((Category::parse(category).ok()?, bare))
    }
}

/// A page of events, newest first.
#[derive(Debug, Clone)]
pub struct EventPage {
    pub events: Vec<Arc<PublishedEvent>>,
    /// Counted up to one past the cap.
    pub total: u64,
}
