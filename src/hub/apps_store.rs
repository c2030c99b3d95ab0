//! Apps and keys in the store alone: what a command needs beside a running hub.

use std::sync::Arc;

use oriva_hub_actors::model::{AppId, Invalid, KeyId};

use super::error::HubError;
use crate::{
    auth::ApiKeySecret,
    store::{ApiKey, App, AppChange, Audit, AuditEntry, AuditFilter, NewApp, NewKey, Store, StoreError},
};

/// A new key with its text. It is shown this once.
pub struct CreatedKey {
    /// The new key, without its secret.
    pub key: ApiKey,
    /// The secret, which is shown once.
    pub secret: ApiKeySecret,
}

/// Actors of the audit log that are no apps.
const RESERVED: [&str; 4] = ["admin", "cli", "first-run", "hub"];

/// Parses the id of an app that is to be made.
///
/// # Errors
/// [`Invalid`] with the rule.
pub fn new_app_id(text: &str) -> Result<AppId, Invalid> {
    if RESERVED.contains(&text) {
        return Err(Invalid(format!("must not be {text}: the audit log has that name for somebody else")));
    }
    AppId::parse(text)
}

/// Apps and keys in the store.
#[derive(Clone)]
pub struct Apps {
    store: Arc<dyn Store>,
}

impl Apps {
    /// Apps and keys of this store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Creates an app and its first key.
    ///
    /// # Errors
    /// [`HubError::Conflict`] if the app exists.
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

    /// Creates a further key.
    ///
    /// # Errors
    /// [`HubError::NotFound`] if there is no such app.
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
