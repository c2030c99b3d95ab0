//! Apps, their keys, and tokens for their users: what operators do, by `/admin` or by the command line.

use std::{collections::HashSet, sync::Arc, time::Duration};

use oriva_hub_actors::model::{AppId, Invalid, KeyId, RevokedCredentials, Timestamp, UserId};

use super::{Hub, HubError};
use crate::{
    auth::{ApiKeySecret, KeyHolder},
    store::{ApiKey, App, AppChange, Audit, AuditEntry, AuditFilter, NewApp, NewKey, Store, StoreError},
};

/// A key that was just made, with its text: the one time that it is shown.
pub struct CreatedKey {
    pub key: ApiKey,
    pub secret: ApiKeySecret,
}

/// Apps and keys, as far as they concern the store alone: all that a command needs beside a running hub.
#[derive(Clone)]
pub struct Apps {
    store: Arc<dyn Store>,
}

impl Apps {
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Makes an app and its first key.
    ///
    /// # Errors
    /// [`HubError::Conflict`] where the app exists.
    pub async fn create(&self, app: NewApp, audit: &Audit) -> Result<(App, ApiKeySecret), HubError> {
        let secret = ApiKeySecret::generate();
        let key = new_key(&app.id, &secret);
        let created = self.store.create_app(&app, Some(&key), audit).await.map_err(|error| match error {
            StoreError::Duplicate => HubError::Conflict(format!("app {} exists already", app.id)),
            other => other.into(),
        })?;
        tracing::info!(app_id = %app.id, key_id = %key.id, actor = audit.actor, "app created");
        Ok((created, secret))
    }

    /// A page of the audit log, newest first.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn audit_log(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, HubError> {
        Ok(self.store.audit_log(filter).await?)
    }

    /// All apps, by id.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn list(&self) -> Result<Vec<App>, HubError> {
        Ok(self.store.apps().await?)
    }

    /// One app.
    ///
    /// # Errors
    /// [`HubError::NotFound`] where there is none.
    pub async fn get(&self, id: &AppId) -> Result<App, HubError> {
        self.store.app(id).await?.ok_or(HubError::NotFound)
    }

    /// Changes an app. A running hub notices within a second.
    ///
    /// # Errors
    /// [`HubError::NotFound`] where there is none.
    pub async fn update(&self, id: &AppId, change: &AppChange, audit: &Audit) -> Result<App, HubError> {
        let app = self.store.update_app(id, change, audit).await?.ok_or(HubError::NotFound)?;
        tracing::info!(app_id = %id, actor = audit.actor, is_active = app.is_active, "app changed");
        Ok(app)
    }

    /// Deletes an app that has no data.
    ///
    /// # Errors
    /// [`HubError::NotFound`] where there is none, [`HubError::Conflict`] where it has data.
    pub async fn delete(&self, id: &AppId, audit: &Audit) -> Result<(), HubError> {
        match self.store.delete_app(id, audit).await {
            Ok(true) => {
                tracing::info!(app_id = %id, actor = audit.actor, "app deleted");
                Ok(())
            }
            Ok(false) => Err(HubError::NotFound),
            Err(StoreError::InUse) => Err(HubError::Conflict(format!("app {id} has data; disable it instead"))),
            Err(other) => Err(other.into()),
        }
    }

    /// Makes a further key.
    ///
    /// # Errors
    /// [`HubError::NotFound`] where there is no such app.
    pub async fn create_key(&self, app: &AppId, audit: &Audit) -> Result<CreatedKey, HubError> {
        let secret = ApiKeySecret::generate();
        let key = self.store.add_key(&new_key(app, &secret), audit).await.map_err(|error| match error {
            StoreError::InUse => HubError::NotFound,
            other => other.into(),
        })?;
        tracing::info!(app_id = %app, key_id = %key.id, actor = audit.actor, "key created");
        Ok(CreatedKey { key, secret })
    }

    /// An app's keys.
    ///
    /// # Errors
    /// [`HubError::NotFound`] where there is no such app.
    pub async fn keys(&self, app: &AppId) -> Result<Vec<ApiKey>, HubError> {
        self.get(app).await?;
        Ok(self.store.keys(app).await?)
    }

    /// Revokes a key. A running hub notices within a second.
    ///
    /// # Errors
    /// [`HubError::NotFound`] where there is no such key.
    pub async fn revoke_key(&self, key: KeyId, audit: &Audit) -> Result<ApiKey, HubError> {
        let revoked = self.store.revoke_key(key, audit).await?.ok_or(HubError::NotFound)?;
        tracing::info!(app_id = %revoked.app_id, key_id = %key, actor = audit.actor, "key revoked");
        Ok(revoked)
    }
}

/// The same on a running node, where what is taken away must be felt at once.
impl Hub {
    #[must_use]
    pub fn apps(&self) -> &Apps {
        &self.apps
    }

    /// As [`Apps::update`]; the sockets of an app that is not active any more are closed before it returns.
    ///
    /// # Errors
    /// As there.
    pub async fn update_app(&self, id: &AppId, change: &AppChange, audit: &Audit) -> Result<App, HubError> {
        let app = self.apps.update(id, change, audit).await?;
        let apps = if app.is_active { HashSet::new() } else { [app.id.clone()].into() };
        self.changed_here(RevokedCredentials { apps, ..RevokedCredentials::default() });
        Ok(app)
    }

    /// As [`Apps::delete`]; its sockets are closed.
    ///
    /// # Errors
    /// As there.
    pub async fn delete_app(&self, id: &AppId, audit: &Audit) -> Result<(), HubError> {
        self.apps.delete(id, audit).await?;
        self.changed_here(RevokedCredentials { apps: [id.clone()].into(), ..RevokedCredentials::default() });
        Ok(())
    }

    /// As [`Apps::revoke_key`]; its sockets are closed.
    ///
    /// # Errors
    /// As there.
    pub async fn revoke_key(&self, key: KeyId, audit: &Audit) -> Result<ApiKey, HubError> {
        let revoked = self.apps.revoke_key(key, audit).await?;
        self.changed_here(RevokedCredentials { keys: [key].into(), ..RevokedCredentials::default() });
        Ok(revoked)
    }

    /// Here it is felt at once; other nodes are told, and find out within a second where they do not hear of it.
    fn changed_here(&self, refused: RevokedCredentials) {
        self.credentials_changed(refused);
        self.nodes.bus.credentials_changed();
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

fn new_key(app: &AppId, secret: &ApiKeySecret) -> NewKey {
    NewKey { id: KeyId::generate(), app_id: app.clone(), hash: secret.hash(), prefix: secret.prefix().to_owned() }
}

/// An app's name: 1 to 200 characters, no control characters.
///
/// # Errors
/// [`Invalid`] with the rule.
pub fn display_name(text: &str) -> Result<String, Invalid> {
    let length = text.chars().count();
    if (1..=200).contains(&length) && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(Invalid("must be 1 to 200 characters".to_owned()))
    }
}
