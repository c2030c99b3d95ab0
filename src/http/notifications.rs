//! `/notifications/{notification_id}`: read, change or delete one notification (contract §6).

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path},
};
use oriva_hub_actors::model::{AppId, JsonObject, NotificationId, UserId};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Problem,
    auth::{AppKey, InboxAccess},
    body::{Body, Fields, text},
    openapi::{
        answers::{Limited, WithBody},
        parameters::OfNotification,
        requests::NotificationChange,
    },
    path,
    rate_limit::Read,
};
use crate::{
    hub::{Hub, NotificationWithApp},
    store::{Change, Content, FaultyField, NotificationRecord, NotificationState, Status},
};

/// A notification as feeds show it.
#[derive(Serialize, ToSchema)]
#[schema(as = Notification)]
pub struct NotificationView<'a> {
    notification_id: NotificationId,
    app_id: &'a AppId,
    app_name: Option<&'a str>,
    app_icon_url: Option<&'a str>,
    /// The same as `app_icon_url`.
    app_icon: Option<&'a str>,
    user_id: &'a UserId,
    #[serde(flatten)]
    content: &'a Content,
    #[serde(flatten)]
    state: &'a NotificationState,
}

impl<'a> From<&'a NotificationWithApp> for NotificationView<'a> {
    fn from(NotificationWithApp { notification, app }: &'a NotificationWithApp) -> Self {
        let icon = app.as_ref().and_then(|app| app.icon_url.as_deref());
        Self {
            notification_id: notification.id,
            app_id: &notification.app_id,
            app_name: app.as_ref().map(|app| app.name.as_str()),
            app_icon_url: icon,
            app_icon: icon,
            user_id: &notification.user_id,
            content: &notification.content,
            state: &notification.state,
        }
    }
}

/// Returns one notification.
#[utoipa::path(
    get,
    path = "/api/v1/notifications/{notification_id}",
    operation_id = "getNotification",
    tag = "Notifications",
    params(OfNotification),
    responses(
        (status = 200, description = "The notification", body = NotificationView),
        Limited
    ),
    security(("user_token" = []), ("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("read"))),
)]
pub async fn get(inbox: InboxAccess<Read>, hub: Data<Hub>, path: Path<String>) -> Result<HttpResponse, Problem> {
    let found = hub.notification(inbox.scope(), notification_id(&path)?).await?;
    Ok(HttpResponse::Ok().json(NotificationView::from(&found)))
}

/// Changes a notification's status.
///
/// The same status again changes nothing. Of two concurrent dismissals the first one counts.
#[utoipa::path(
    patch,
    path = "/api/v1/notifications/{notification_id}",
    operation_id = "changeNotification",
    tag = "Notifications",
    params(OfNotification),
    request_body = NotificationChange,
    responses(
        (status = 200, description = "The notification's new state", body = NotificationRecord),
        Limited,
        WithBody
    ),
    security(("user_token" = []), ("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("read"))),
)]
pub async fn update(
    inbox: InboxAccess<Read>,
    hub: Data<Hub>,
    request: HttpRequest,
    path: Path<String>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let id = notification_id(&path)?;
    let mut asked = match Asked::read(body).await {
        Ok(asked) => asked,
        Err(mistake) => {
            // 404 and 403 come before faults of the body (contract §1).
            hub.notification(inbox.scope(), id).await?;
            return Err(mistake);
        }
    };
    if asked.status == Status::Dismissed && asked.dismissed_from.is_none() {
        asked.dismissed_from = Some(inbox.app_id().to_string());
    }
    let change = Change {
        id,
        scope: inbox.scope().clone(),
        to: asked.status,
        dismissed_from: asked.dismissed_from,
        click_action: asked.click_action,
        metadata: asked.metadata,
    };
    let record = hub.change_notification(inbox.app_id(), change, inbox.origin(&request)).await?;
    Ok(HttpResponse::Ok().json(record))
}

/// Deletes a notification. Only the app that created it can.
#[utoipa::path(
    delete,
    path = "/api/v1/notifications/{notification_id}",
    operation_id = "deleteNotification",
    tag = "Notifications",
    params(OfNotification),
    responses((status = 204, description = "The notification was deleted"), Limited),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("read"))),
)]
pub async fn delete(
    app: AppKey<Read>,
    hub: Data<Hub>,
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, Problem> {
    hub.delete_notification(app.holder(), notification_id(&path)?, app.origin(&request)).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn notification_id(text: &str) -> Result<NotificationId, Problem> {
    path::uuid(text).map(NotificationId)
}

/// The body of a change.
struct Asked {
    status: Status,
    dismissed_from: Option<String>,
    click_action: Option<String>,
    metadata: JsonObject,
}

impl Asked {
    async fn read(body: Body) -> Result<Self, Problem> {
        let bytes = body.json().await?;
        Self::parse(Fields::parse(&bytes)?).map_err(Problem::invalid)
    }

    fn parse(mut fields: Fields<'_>) -> Result<Self, Vec<FaultyField>> {
        let status = fields.required("status", Status::parse);
        let dismissed_from = fields.optional("dismissed_from", text(1..=255));
        let click_action = fields.optional("click_action", text(1..=255));
        let metadata = fields.object("metadata").unwrap_or_else(JsonObject::empty);
        fields.finish()?;
        // A fault was noted if it is missing.
        let status = status.ok_or_else(Vec::new)?;
        Ok(Self { status, dismissed_from, click_action, metadata })
    }
}
