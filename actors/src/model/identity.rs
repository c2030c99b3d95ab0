//! Who a socket belongs to, and what that user or app may see.

use std::collections::HashSet;

use super::{AppId, Event, KeyId, StreamKey, UserId};

/// The apps whose events a user's token opens (contract §1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The token was issued by a platform app.
    AllApps,
    /// The token was issued by this app.
    App(AppId),
}

/// A user or app, as authentication found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A user, by a token.
    User {
        /// The user.
        user: UserId,
        /// The app whose token it is.
        issuer: AppId,
        /// The apps whose events it opens.
        scope: Scope,
    },
    /// An app, by its API key.
    App {
        /// The app.
        app: AppId,
        /// The key that was presented.
        key: KeyId,
    },
}

impl Identity {
    /// The user's or app's own stream.
    #[must_use]
    pub fn stream(&self) -> StreamKey {
        match self {
            Self::User { user, .. } => StreamKey::User(user.clone()),
            Self::App { app, .. } => StreamKey::App(app.clone()),
        }
    }

    /// The app behind this identity: the issuer of the user's token, or the key's own app.
    #[must_use]
    pub fn app(&self) -> &AppId {
        match self {
            Self::User { issuer, .. } => issuer,
            Self::App { app, .. } => app,
        }
    }

    /// The scope that its connection is counted in: of a user's token its own, of an app's key [`Scope::AllApps`].
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self {
            Self::User { scope, .. } => scope.clone(),
            Self::App { .. } => Scope::AllApps,
        }
    }

    /// The user; `None` for an app.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::User { user, .. } => Some(user),
            Self::App { .. } => None,
        }
    }

    /// Whether this identity may see `event`, which came on a stream that it follows. A platform app's broadcast is for
    /// everyone, another app's is for the users in that app's scope (contract §4).
    #[must_use]
    pub fn may_see(&self, event: &Event) -> bool {
        match self {
            Self::App { .. } | Self::User { scope: Scope::AllApps, .. } => true,
            Self::User { scope: Scope::App(app), .. } => {
                *app == event.app_id || (event.user_id.is_none() && event.from_platform)
            }
        }
    }
}

/// Credentials that are no longer valid. Their sockets are closed with 4003.
#[derive(Debug, Clone, Default)]
pub struct RevokedCredentials {
    /// Apps that were deactivated; on the node that deleted one, also deleted ones.
    pub apps: HashSet<AppId>,
    /// Keys that were revoked.
    pub keys: HashSet<KeyId>,
}

impl RevokedCredentials {
    /// Whether nothing was revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.apps.is_empty() && self.keys.is_empty()
    }

    /// Whether a connection with this identity rests on something that was revoked.
    #[must_use]
    pub fn covers(&self, identity: &Identity) -> bool {
        self.apps.contains(identity.app()) || matches!(identity, Identity::App { key, .. } if self.keys.contains(key))
    }
}
