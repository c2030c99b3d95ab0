//! `/admin/apps/{app_id}/keys` and `/admin/keys/{key_id}`: API keys, made, listed, revoked.

use actix_web::{
    HttpResponse,
    web::{Data, Path},
};
use oriva_hub_actors::model::{AppId, KeyId, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::apps::app_id;
use crate::{
    http::{
        Problem,
        body::{Body, Fields},
        caller::{Admin, path_id},
    },
    hub::Hub,
    store::ApiKey,
};

#[derive(Serialize)]
struct KeyView<'a> {
    key_id: KeyId,
    app_id: &'a AppId,
    prefix: &'a str,
    created_at: Timestamp,
    last_used_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

impl<'a> From<&'a ApiKey> for KeyView<'a> {
    fn from(key: &'a ApiKey) -> Self {
        Self {
            key_id: key.id,
            app_id: &key.app_id,
            prefix: &key.prefix,
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            revoked_at: key.revoked_at,
        }
    }
}

/// # Errors
/// 401, 403, 404.
pub async fn list(_: Admin, hub: Data<Hub>, path: Path<String>) -> Result<HttpResponse, Problem> {
    let keys = hub.apps().keys(&app_id(&path)?).await?;
    Ok(HttpResponse::Ok().json(json!({"keys": keys.iter().map(KeyView::from).collect::<Vec<_>>()})))
}

/// Answers with the key, this once.
///
/// # Errors
/// 401, 403, 404, 400.
pub async fn create(admin: Admin, hub: Data<Hub>, path: Path<String>, body: Body) -> Result<HttpResponse, Problem> {
    let app = app_id(&path)?;
    Fields::new(body.object_or_nothing().await?).finish().map_err(Problem::invalid)?;
    let made = hub.apps().create_key(&app, &admin.audit()).await?;
    let mut answer = json!(KeyView::from(&made.key));
    answer["api_key"] = json!(made.secret.expose());
    Ok(HttpResponse::Created().json(answer))
}

/// Revokes; the key's sockets are closed.
///
/// # Errors
/// 401, 403, 404.
pub async fn revoke(admin: Admin, hub: Data<Hub>, path: Path<String>) -> Result<HttpResponse, Problem> {
    let key = KeyId(path_id(&path)?);
    let key = hub.revoke_key(key, &admin.audit()).await?;
    Ok(HttpResponse::Ok().json(KeyView::from(&key)))
}
