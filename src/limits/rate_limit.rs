//! The types of rate limits.

use std::time::Duration;

use oriva_hub_actors::model::{AppId, UserId};

/// A class of routes with a limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Publishing events.
    Publish,
    /// Reading.
    Read,
    /// Creating notifications.
    Notify,
    /// Changing webhooks.
    Webhooks,
}

impl Class {
    /// The name in settings and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Notify => "notify",
            Self::Webhooks => "webhooks",
        }
    }
}

/// Who requests are counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RateLimitKey {
    /// Counted for this app.
    App(AppId),
    /// A user, under the app that issued the token.
    User(AppId, UserId),
}

/// A number of requests in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests that pass in a window.
    pub requests: u32,
    /// The window's length.
    pub window: Duration,
}

/// What is left of a limit after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimitStatus {
    /// The class that was counted.
    pub class: Class,
    /// The limit that applied.
    pub limit: RateLimit,
    /// Requests left in this window.
    pub remaining: u32,
    /// Time until the window ends and the limit is whole again.
    pub reset_in: Duration,
}

/// The request exceeds the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimited(pub RateLimitStatus);
