//! `/admin/apps`: create, list, change and delete apps.

use actix_web::{
    HttpResponse,
    web::{Data, Path},
};
use oriva_hub_actors::model::{AppId, Timestamp, whole_number};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    http::{
        Problem,
        auth::Admin,
        body::{Body, Fields},
        openapi::{
            answers::{Exclusive, Named, Operator, WithBody},
            parameters::OfApp,
            requests::{self},
        },
    },
    hub::{Hub, display_name, image_url, new_app_id},
    store::{App, AppChange, LimitOverrides, NewApp},
};

/// An app as operators see it.
#[derive(Serialize, ToSchema)]
#[schema(as = App)]
pub struct AppView<'a> {
    app_id: &'a AppId,
    name: &'a str,
    icon_url: Option<&'a str>,
    is_active: bool,
    is_platform: bool,
    #[schema(value_type = requests::Limits)]
    limits: &'a LimitOverrides,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// All apps.
#[derive(Serialize, ToSchema)]
#[schema(as = Apps)]
struct AppsView<'a> {
    apps: Vec<AppView<'a>>,
}

/// An app with its first API key, shown once.
#[derive(Serialize, ToSchema)]
struct AppWithKey<'a> {
    #[serde(flatten)]
    app: AppView<'a>,
    api_key: &'a str,
}

impl<'a> From<&'a App> for AppView<'a> {
    fn from(app: &'a App) -> Self {
        Self {
            app_id: &app.id,
            name: &app.name,
            icon_url: app.icon_url.as_deref(),
            is_active: app.is_active,
            is_platform: app.is_platform,
            limits: &app.limits,
            created_at: app.created_at,
            updated_at: app.updated_at,
        }
    }
}

/// Lists all apps.
#[utoipa::path(
    get,
    path = "/api/v1/admin/apps",
    operation_id = "listApps",
    tag = "Admin",
    responses((status = 200, description = "All apps", body = AppsView), Operator),
    security(("admin_key" = [])),
)]
pub async fn list(_: Admin, hub: Data<Hub>) -> Result<HttpResponse, Problem> {
    let apps = hub.apps().list().await?;
    Ok(HttpResponse::Ok().json(AppsView { apps: apps.iter().map(AppView::from).collect() }))
}

/// Creates an app with its first API key.
///
/// The key is shown only in this answer.
#[utoipa::path(
    post,
    path = "/api/v1/admin/apps",
    operation_id = "createApp",
    tag = "Admin",
    request_body = requests::AppInput,
    responses(
        (status = 201, description = "The new app and its key", body = AppWithKey),
        Operator,
        WithBody,
        Exclusive
    ),
    security(("admin_key" = [])),
)]
pub async fn create(admin: Admin, hub: Data<Hub>, body: Body) -> Result<HttpResponse, Problem> {
    let bytes = body.json().await?;
    let mut fields = Fields::parse(&bytes)?;
    let id = fields.required("app_id", new_app_id);
    let name = fields.required("name", display_name);
    let icon_url = fields.optional("icon_url", image_url);
    let is_platform = fields.boolean("is_platform").unwrap_or(false);
    let limits = limits(&mut fields).unwrap_or_default();
    fields.finish().map_err(Problem::invalid)?;
    let (Some(id), Some(name)) = (id, name) else { return Err(Problem::invalid(Vec::new())) };
    let (app, key) = hub.apps().create(NewApp { id, name, icon_url, is_platform, limits }, &admin.audit()).await?;
    Ok(HttpResponse::Created().json(AppWithKey { app: AppView::from(&app), api_key: key.expose() }))
}

/// Returns one app.
#[utoipa::path(
    get,
    path = "/api/v1/admin/apps/{app_id}",
    operation_id = "getApp",
    tag = "Admin",
    params(OfApp),
    responses((status = 200, description = "The app", body = AppView), Operator, Named),
    security(("admin_key" = [])),
)]
pub async fn get(_: Admin, hub: Data<Hub>, path: Path<String>) -> Result<HttpResponse, Problem> {
    let app = hub.apps().get(&app_id(&path)?).await?;
    Ok(HttpResponse::Ok().json(AppView::from(&app)))
}

/// Changes an app, or enables or disables it.
#[utoipa::path(
    patch,
    path = "/api/v1/admin/apps/{app_id}",
    operation_id = "changeApp",
    tag = "Admin",
    params(OfApp),
    request_body = requests::AppChange,
    responses(
        (status = 200, description = "The app", body = AppView),
        Operator,
        Named,
        WithBody
    ),
    security(("admin_key" = [])),
)]
pub async fn update(admin: Admin, hub: Data<Hub>, path: Path<String>, body: Body) -> Result<HttpResponse, Problem> {
    let id = app_id(&path)?;
    let bytes = body.json().await?;
    let mut fields = Fields::parse(&bytes)?;
    let takes_icon_away = fields.has("icon_url");
    let icon = fields.optional("icon_url", image_url);
    let change = AppChange {
        name: fields.optional("name", display_name),
        icon_url: takes_icon_away.then_some(icon),
        is_active: fields.boolean("is_active"),
        is_platform: fields.boolean("is_platform"),
        limits: limits(&mut fields),
    };
    fields.finish().map_err(Problem::invalid)?;
    let app = hub.update_app(&id, &change, &admin.audit()).await?;
    Ok(HttpResponse::Ok().json(AppView::from(&app)))
}

/// Deletes an app that has no data.
#[utoipa::path(
    delete,
    path = "/api/v1/admin/apps/{app_id}",
    operation_id = "deleteApp",
    tag = "Admin",
    params(OfApp),
    responses((status = 204, description = "The app was deleted"), Operator, Named, Exclusive),
    security(("admin_key" = [])),
)]
pub async fn delete(admin: Admin, hub: Data<Hub>, path: Path<String>) -> Result<HttpResponse, Problem> {
    hub.delete_app(&app_id(&path)?, &admin.audit()).await?;
    Ok(HttpResponse::NoContent().finish())
}

pub(super) fn app_id(text: &str) -> Result<AppId, Problem> {
    AppId::parse(text).map_err(|_| Problem::not_found())
}

/// `{"publish": 5000}`: requests in one window, by rate-limit class.
fn limits(fields: &mut Fields<'_>) -> Option<LimitOverrides> {
    let map = fields.map("limits")?;
    let mut limits = LimitOverrides::new();
    for (class, value) in map {
        let name = format!("limits.{class}");
        if !["publish", "read", "notify", "webhooks"].contains(&class.as_str()) {
            fields.fault(&name, "is not a class: publish, read, notify, webhooks");
        } else if let Some(limit) =
            whole_number(&value).and_then(|limit| u32::try_from(limit).ok()).filter(|limit| *limit > 0)
        {
            limits.insert(class, limit);
        } else {
            fields.fault(&name, "must be a whole number from 1 to 4294967295");
        }
    }
    Some(limits)
}
