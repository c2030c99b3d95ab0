//! Identifiers as types, so that an app's id cannot be passed where a user's id is expected (contract, opening).

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Invalid;

/// A tenant's slug: `^[a-z0-9][a-z0-9_-]{0,62}$`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[schema(value_type = String, pattern = "^[a-z0-9][a-z0-9_-]{0,62}$", example = "work-buddy")]
pub struct AppId(Arc<str>);

impl AppId {
    /// Parses a slug.
    ///
    /// # Errors
    /// [`Invalid`] with the rule, when `text` is not a slug.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let rest_is_fine =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        let bytes = text.as_bytes();
        let first_is_fine = bytes.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if first_is_fine && bytes.len() <= 63 && bytes.iter().copied().all(rest_is_fine) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::new("must be 1 to 63 of a-z, 0-9, _ and -, and begin with a letter or digit"))
        }
    }

    /// The hub itself, as the origin of work that no app asked for.
    #[must_use]
    pub fn hub() -> Self {
        Self("hub".into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A user's id, given by the platform: 1 to 128 visible characters that the hub never interprets.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[schema(value_type = String, pattern = r"^[^\s\x00-\x1f\x7f-\x9f]+$", min_length = 1, max_length = 128, example = "ada")]
pub struct UserId(Arc<str>);

impl UserId {
    /// Parses a user id.
    ///
    /// # Errors
    /// [`Invalid`] with the rule, when `text` is empty, too long, holds a blank or control character, or is `.` or
    /// `..`, which no browser sends within a path.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let visible = |c: char| !c.is_control() && !c.is_whitespace();
        if matches!(text, "." | "..") {
            Err(Invalid::new("must not be . or .., which cannot stand in a URL's path"))
        } else if !text.is_empty() && text.chars().count() <= 128 && text.chars().all(visible) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::new("must be 1 to 128 visible characters"))
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_id {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), &self.0)
            }
        }
    )*};
}
text_id!(AppId, UserId);

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[schema(value_type = String, format = "uuid")]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id. UUIDv7, so later ids sort after earlier ones.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )*};
}
uuid_id!(
    /// One event.
    EventId,
    /// One notification.
    NotificationId,
    /// One webhook.
    WebhookId,
    /// One event owed to one webhook.
    DeliveryId,
    /// One API key (not the key itself).
    KeyId,
    /// One WebSocket, as its `welcome` names it.
    ConnectionId,
    /// One node, from its start to its end.
    NodeId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_id_is_a_slug() {
        for good in ["a", "0", "work-buddy", "app_1", &"a".repeat(63)] {
            assert!(AppId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a b", "ä", "a/b", &"a".repeat(64)] {
            assert!(AppId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_user_id_is_visible_and_counted_in_characters() {
        for good in ["u", "auth0|5f7c", "a@b.c", "ü", &"😀".repeat(128)] {
            assert!(UserId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", " ", "a b", "a\n", "\u{0}", &"x".repeat(129)] {
            assert!(UserId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
