//! Streams: one user's, one app's, or the broadcasts', each numbered 1, 2, 3 … without gaps.

use serde::Serialize;

use super::{AppId, UserId};

/// A position in a stream. Events are numbered from 1; 0 is the position before the first.
pub type Offset = u64;

/// Which of the three kinds a stream is; the word that frames carry as `stream`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamKind {
    User,
    App,
    Broadcast,
}

impl StreamKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::App => "app",
            Self::Broadcast => "broadcast",
        }
    }
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StreamKey {
    User(UserId),
    App(AppId),
    Broadcast,
}

impl StreamKey {
    #[must_use]
    pub fn kind(&self) -> StreamKind {
        match self {
            Self::User(_) => StreamKind::User,
            Self::App(_) => StreamKind::App,
            Self::Broadcast => StreamKind::Broadcast,
        }
    }

    /// The part after the kind: the id, or nothing for the one broadcast stream.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::User(id) => id.as_str(),
            Self::App(id) => id.as_str(),
            Self::Broadcast => "",
        }
    }
}
