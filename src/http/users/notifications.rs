//! `/users/{user_id}/notifications`: a user's feed over all apps, its counts, and marking all as read (contract §6).

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web::Data};
use oriva_hub_actors::model::{AppId, NotificationId, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    http::{
        Problem,
        auth::InboxAccess,
        body::{Body, Fields, text},
        notifications::NotificationView,
        openapi::{
            answers::{Checked, Limited, WithBody},
            parameters::OfUser,
            requests::{FeedQuery, ReadAll},
        },
        query::{self, Parameters},
        rate_limit::Read,
    },
    hub::{Hub, NotificationWithApp},
    store::{FaultyField, FeedFilter, FeedPosition, Priority, Status},
};

const DEFAULT_LIMIT: u64 = 50;
const MAX_LIMIT: u64 = 100;

/// Lists a user's notifications, the most urgent first, then the newest.
///
/// A user sees their own, an app those that it created, a platform app all.
#[utoipa::path(
    get,
    path = "/api/v1/users/{user_id}/notifications",
    operation_id = "listNotifications",
    tag = "Notifications",
    params(OfUser, FeedQuery),
    responses((status = 200, description = "A page of notifications", body = FeedView), Limited, Checked),
    security(("user_token" = []), ("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("read"))),
)]
pub async fn feed(inbox: InboxAccess<Read>, hub: Data<Hub>, parameters: Parameters) -> Result<HttpResponse, Problem> {
    let filter = feed_filter(parameters).map_err(Problem::invalid)?;
    let feed = hub.feed(inbox.scope(), inbox.user()?, &filter).await?;
    let is_full = feed.notifications.len() == filter.limit as usize;
    let next_cursor = feed.notifications.last().filter(|_| is_full).map(cursor_after);
    Ok(HttpResponse::Ok().json(FeedView {
        notifications: feed.notifications.iter().map(NotificationView::from).collect(),
        total: feed.total,
        total_is_capped: feed.total_is_capped,
        unread_count: feed.unread,
        limit: filter.limit,
        offset: filter.offset,
        has_more: next_cursor.is_some(),
        next_cursor,
    }))
}

/// Counts a user's notifications: unread, unread by app, and all by status.
#[utoipa::path(
    get,
    path = "/api/v1/users/{user_id}/notifications/counts",
    operation_id = "countNotifications",
    tag = "Notifications",
    params(OfUser),
    responses((status = 200, description = "Numbers of notifications", body = CountsView), Limited, Checked),
    security(("user_token" = []), ("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("read"))),
)]
pub async fn counts(inbox: InboxAccess<Read>, hub: Data<Hub>, parameters: Parameters) -> Result<HttpResponse, Problem> {
    query::fields(parameters, []).0.finish().map_err(Problem::invalid)?;
    let counts = hub.notification_counts(inbox.scope(), inbox.user()?).await?;
    Ok(HttpResponse::Ok().json(CountsView {
        unread: counts.unread,
        by_app: counts.by_app,
        by_status: counts.by_status,
    }))
}

/// Marks unread notifications as read.
#[utoipa::path(
    post,
    path = "/api/v1/users/{user_id}/notifications/read-all",
    operation_id = "readAllNotifications",
    tag = "Notifications",
    params(OfUser),
    request_body = Option<ReadAll>,
    responses(
        (status = 200, description = "Number of notifications marked as read", body = Updated),
        Limited,
        WithBody
    ),
    security(("user_token" = []), ("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("read"))),
)]
pub async fn read_all(
    inbox: InboxAccess<Read>,
    hub: Data<Hub>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let bytes = body.json_or_nothing().await?;
    let mut fields = Fields::parse(&bytes)?;
    let asked = fields.optional("app_id", AppId::parse);
    let before = fields.optional("before", Timestamp::parse);
    fields.finish().map_err(Problem::invalid)?;
    let own = inbox.scope().app.clone();
    if asked.is_some() && own.is_some() && asked != own {
        return Ok(HttpResponse::Ok().json(Updated { updated: 0 }));
    }
    let origin = inbox.origin(&request);
    let updated = hub.read_all(inbox.app_id(), inbox.user()?, own.or(asked), before, &origin).await?;
    Ok(HttpResponse::Ok().json(Updated { updated }))
}

/// Numbers of a user's notifications.
#[derive(Serialize, ToSchema)]
#[schema(as = Counts)]
struct CountsView {
    unread: u64,
    /// Number of unread notifications, by app.
    by_app: BTreeMap<AppId, u64>,
    by_status: BTreeMap<Status, u64>,
}

/// The result of marking notifications as read.
#[derive(Serialize, ToSchema)]
struct Updated {
    updated: u64,
}

/// A page of a user's notifications.
#[derive(Serialize, ToSchema)]
#[schema(as = Notifications)]
struct FeedView<'a> {
    notifications: Vec<NotificationView<'a>>,
    total: u64,
    /// `true` if there are more than `total`.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    total_is_capped: bool,
    unread_count: u64,
    limit: u32,
    offset: u64,
    /// Whether there may be a next page.
    has_more: bool,
    next_cursor: Option<String>,
}

fn feed_filter(parameters: Parameters) -> Result<FeedFilter, Vec<FaultyField>> {
    let (mut fields, [statuses, priorities]) = query::fields(parameters, ["status", "priority"]);
    let statuses = if statuses.is_empty() {
        Status::SHOWN.to_vec()
    } else {
        query::each(&mut fields, "status", &statuses, Status::parse)
    };
    let priorities = query::each(&mut fields, "priority", &priorities, Priority::parse);
    let (limit, offset) = query::window(&mut fields, DEFAULT_LIMIT, MAX_LIMIT);
    let filter = FeedFilter {
        statuses,
        app: fields.optional("app_id", AppId::parse),
        notification_type: fields.optional("notification_type", text(1..=100)),
        priorities,
        since: fields.optional("since", Timestamp::parse),
        until: fields.optional("until", Timestamp::parse),
        limit,
        offset,
        after: query::cursor(&mut fields, offset, parse_position),
    };
    fields.finish()?;
    Ok(filter)
}

fn cursor_after(last: &NotificationWithApp) -> String {
    let (content, state) = (&last.notification.content, &last.notification.state);
    query::encode(&format!("{}:{}:{}", content.priority.urgency(), state.created_at.unix_ms(), last.notification.id))
}

fn parse_position(text: &str) -> Option<FeedPosition> {
    let mut parts = text.split(':');
    let (urgency, created_at, id) = (parts.next()?, parts.next()?, parts.next()?);
    let created_at = query::moment(created_at.parse().ok()?)?;
    let urgency: i16 = urgency.parse().ok().filter(|urgency| (0..=3).contains(urgency))?;
    let id = NotificationId(id.parse().ok()?);
    parts.next().is_none().then_some(FeedPosition { urgency, created_at, id })
}
