//! Apps and keys on a running node, where a change takes effect at once, and tokens for their users.

use std::{collections::HashSet, time::Duration};

use oriva_hub_actors::model::{AppId, KeyId, RevokedCredentials, Timestamp, UserId};

use super::{core::Hub, error::HubError};
use crate::{
    auth::KeyHolder,
    store::{ApiKey, App, AppChange, Audit},
};

impl Hub {
    /// As [`Apps::update`](super::apps_store::Apps::update). If the app is no longer active, its sockets are closed before this returns.
    ///
    /// # Errors
    /// As there.
    pub async fn update_app(&self, id: &AppId, change: &AppChange, audit: &Audit) -> Result<App, HubError> {
        let app = self.apps.update(id, change, audit).await?;
        let apps = if app.is_active { HashSet::new() } else { [app.id.clone()].into() };
        self.changed_here(RevokedCredentials { apps, ..RevokedCredentials::default() });
        Ok(app)
    }

    /// As [`Apps::delete`](super::apps_store::Apps::delete); its sockets are closed.
    ///
    /// # Errors
    /// As there.
    pub async fn delete_app(&self, id: &AppId, audit: &Audit) -> Result<(), HubError> {
        self.apps.delete(id, audit).await?;
        self.changed_here(RevokedCredentials { apps: [id.clone()].into(), ..RevokedCredentials::default() });
        Ok(())
    }

    /// As [`Apps::revoke_key`](super::apps_store::Apps::revoke_key); its sockets are closed.
    ///
    /// # Errors
    /// As there.
    pub async fn revoke_key(&self, key: KeyId, audit: &Audit) -> Result<ApiKey, HubError> {
        let revoked = self.apps.revoke_key(key, audit).await?;
        self.changed_here(RevokedCredentials { keys: [key].into(), ..RevokedCredentials::default() });
        Ok(revoked)
    }

    /// Applies a change on this node at once. Other nodes are told over the bus, and find it in the store within a
    /// second anyway.
    fn changed_here(&self, refused: RevokedCredentials) {
        self.credentials_changed(refused);
        self.cluster.bus.credentials_changed();
    }

    /// A token for one of the caller's users.
    ///
    /// # Errors
    /// Where signing fails.
    pub fn issue_token(
        &self,
        caller: &KeyHolder,
        user: &UserId,
        ttl: Duration,
    ) -> Result<(String, Timestamp), HubError> {
        self.auth.tokens().issue(&caller.app.id, user, ttl).map_err(|_| HubError::Overloaded)
    }
}
