//! Who a socket belongs to, and what that user or app may see.

use super::{AppId, Event, KeyId, StreamKey, UserId};

/// The apps whose events a user sees (contract §1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The token was issued by a platform app, or the key is one's.
    AllApps,
    /// The token was issued by this app, or the key is its own.
    App(AppId),
}

/// A user or app, as authentication found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A user, by a token, or by an app's key that names the user.
    User {
        /// The user.
        user: UserId,
        /// The app whose token or key it is.
        issuer: AppId,
        /// The key, if it was one.
        key: Option<KeyId>,
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

    /// What its connections rest on.
    #[must_use]
    pub fn grant(&self) -> Grant {
        match self {
            Self::User { issuer, key, scope, .. } => {
                Grant { app: issuer.clone(), key: *key, scope: Some(scope.clone()) }
            }
            Self::App { app, key } => Grant { app: app.clone(), key: Some(*key), scope: None },
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

/// What connections rest on, and what a change of apps or keys can take away. Many connections share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The app whose token or key opened them. It must be active.
    pub app: AppId,
    /// The key, if it was one. It must not be revoked.
    pub key: Option<KeyId>,
    /// What the app's users see, for connections of users. It depends on whether the app is a platform app.
    pub scope: Option<Scope>,
}
