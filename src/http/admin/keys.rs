//! `/admin/apps/{app_id}/keys` and `/admin/keys/{key_id}`: create, list and revoke API keys.

use actix_web::{
    HttpResponse,
    web::{Data, Path},
};
use oriva_hub_actors::model::{AppId, KeyId, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::apps::app_id;
use crate::{
    http::{
        Problem,
        auth::Admin,
        body::{Body, Fields},
        openapi::{
            answers::{Named, Operator, WithBody},
            parameters::{OfApp, OfKey},
        },
        path,
    },
    hub::Hub,
    store::ApiKey,
};

/// An API key, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
struct KeyView<'a> {
    key_id: KeyId,
    app_id: &'a AppId,
    prefix: &'a str,
    created_at: Timestamp,
    last_used_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

/// An app's keys.
#[derive(Serialize, ToSchema)]
#[schema(as = Keys)]
struct KeysView<'a> {
    keys: Vec<KeyView<'a>>,
}

/// An API key with its secret, shown once.
#[derive(Serialize, ToSchema)]
struct KeyWithSecret<'a> {
    #[serde(flatten)]
    key: KeyView<'a>,
    api_key: &'a str,
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

/// Lists an app's API keys.
#[utoipa::path(
    get,
    path = "/api/v1/admin/apps/{app_id}/keys",
    operation_id = "listKeys",
    tag = "Admin",
    params(OfApp),
    responses((status = 200, description = "All keys of the app", body = KeysView), Operator, Named),
    security(("admin_key" = [])),
)]
pub async fn list(_: Admin, hub: Data<Hub>, path: Path<String>) -> Result<HttpResponse, Problem> {
    let keys = hub.apps().keys(&app_id(&path)?).await?;
    Ok(HttpResponse::Ok().json(KeysView { keys: keys.iter().map(KeyView::from).collect() }))
}

/// Creates an API key.
///
/// The key is shown only in this answer.
#[utoipa::path(
    post,
    path = "/api/v1/admin/apps/{app_id}/keys",
    operation_id = "createKey",
    tag = "Admin",
    params(OfApp),
    responses(
        (status = 201, description = "The new key", body = KeyWithSecret),
        Operator,
        Named,
        WithBody
    ),
    security(("admin_key" = [])),
)]
pub async fn create(admin: Admin, hub: Data<Hub>, path: Path<String>, body: Body) -> Result<HttpResponse, Problem> {
    let app = app_id(&path)?;
    Fields::parse(&body.json_or_nothing().await?)?.finish().map_err(Problem::invalid)?;
    let made = hub.apps().create_key(&app, &admin.audit()).await?;
    Ok(HttpResponse::Created().json(KeyWithSecret { key: KeyView::from(&made.key), api_key: made.secret.expose() }))
}

/// Revokes an API key, and closes its sockets.
#[utoipa::path(
    delete,
    path = "/api/v1/admin/keys/{key_id}",
    operation_id = "revokeKey",
    tag = "Admin",
    params(OfKey),
    responses((status = 200, description = "The key", body = KeyView), Operator, Named),
    security(("admin_key" = [])),
)]
pub async fn revoke(admin: Admin, hub: Data<Hub>, path: Path<String>) -> Result<HttpResponse, Problem> {
    let key = KeyId(path::uuid(&path)?);
    let key = hub.revoke_key(key, &admin.audit()).await?;
    Ok(HttpResponse::Ok().json(KeyView::from(&key)))
}
