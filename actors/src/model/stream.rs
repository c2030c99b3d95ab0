//! Streams of events: each user's, each app's, and the broadcast stream. Each is numbered 1, 2, 3 … without gaps.

use serde::Serialize;

use super::{AppId, UserId};

/// The number of an event in a stream. The first is 1; 0 is the position before it.
pub type Offset = u64;

/// The kind of a stream, as frames name it in `stream`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamKind {
    /// What concerns one user.
    User,
    /// What one app published.
    App,
    /// What concerns every user in the publishing app's scope.
    Broadcast,
}

impl StreamKind {
    /// The name in frames and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::App => "app",
            Self::Broadcast => "broadcast",
        }
    }

    /// The kind that has this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::User, Self::App, Self::Broadcast].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StreamKey {
    /// The stream of this user.
    User(UserId),
    /// The stream of this app.
    App(AppId),
    /// The stream of broadcasts.
    Broadcast,
}

impl StreamKey {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> StreamKind {
        match self {
            Self::User(_) => StreamKind::User,
            Self::App(_) => StreamKind::App,
            Self::Broadcast => StreamKind::Broadcast,
        }
    }

    /// The user's or app's id. Empty for the broadcast stream.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::User(id) => id.as_str(),
            Self::App(id) => id.as_str(),
            Self::Broadcast => "",
        }
    }
}
