//! Apps and keys on a running node, where a change takes effect at once, and tokens for their users.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use oriva_hub_actors::{
    model::{AppId, Grant, KeyId, Timestamp, UserId},
    protocol::Close,
};

use super::{core::Hub, error::HubError};
use crate::{
    auth::{KeyHolder, scope_of},
    store::{ApiKey, App, AppChange, Audit, StoreError},
};

impl Hub {
    /// As [`Apps::update`](super::apps_store::Apps::update). Sockets that rest on what it took away are closed before
    /// this returns.
    ///
    /// # Errors
    /// As there.
    pub async fn update_app(&self, id: &AppId, change: &AppChange, audit: &Audit) -> Result<App, HubError> {
        let app = self.apps.update(id, change, audit).await?;
        self.changed_here().await;
        Ok(app)
    }

    /// As [`Apps::delete`](super::apps_store::Apps::delete); its sockets are closed.
    ///
    /// # Errors
    /// As there.
    pub async fn delete_app(&self, id: &AppId, audit: &Audit) -> Result<(), HubError> {
        self.apps.delete(id, audit).await?;
        self.changed_here().await;
        Ok(())
    }

    /// As [`Apps::revoke_key`](super::apps_store::Apps::revoke_key); its sockets are closed.
    ///
    /// # Errors
    /// As there.
    pub async fn revoke_key(&self, key: KeyId, audit: &Audit) -> Result<ApiKey, HubError> {
        let revoked = self.apps.revoke_key(key, audit).await?;
        self.changed_here().await;
        Ok(revoked)
    }

    /// Applies a change on this node at once. Other nodes are told over the bus, and find it in the store within a
    /// second anyway.
    async fn changed_here(&self) {
        if let Err(error) = self.check_credentials().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "sockets not checked; identity_watch does it again"
            );
        }
        self.cluster.bus.credentials_changed();
    }

    /// Empties the caches of credentials, and closes every socket that its credential would no longer open, or not
    /// with the same view. It compares with the store as it is now, so it does not matter for how long this node heard
    /// of no change. A socket that opens meanwhile was authenticated later, and is not looked at.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn check_credentials(&self) -> Result<(), StoreError> {
        self.auth.forget();
        let grants = self.realtime.grants().await;
        if grants.is_empty() {
            return Ok(());
        }
        let apps: HashMap<AppId, App> = self.store.apps().await?.into_iter().map(|app| (app.id.clone(), app)).collect();
        let keys: Vec<KeyId> = grants.iter().filter_map(|grant| grant.key).collect();
        let valid = self.store.valid_keys(&keys).await?;
        let ended = |grant: Grant| close_of(&grant, apps.get(&grant.app), &valid).map(|close| (grant, close));
        let ended: HashMap<Grant, Close> = grants.into_iter().filter_map(ended).collect();
        if !ended.is_empty() {
            self.realtime.close_grants(ended);
        }
        Ok(())
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

/// How sockets that rest on `grant` are closed, if it is no longer good.
fn close_of(grant: &Grant, app: Option<&App>, valid: &HashSet<KeyId>) -> Option<Close> {
    let Some(app) = app.filter(|app| app.is_active) else { return Some(Close::Revoked) };
    if grant.key.is_some_and(|key| !valid.contains(&key)) {
        return Some(Close::Revoked);
    }
    // The credential is still good, but opens another view.
    grant.scope.as_ref().is_some_and(|scope| *scope != scope_of(app)).then_some(Close::TokenExpired)
}
