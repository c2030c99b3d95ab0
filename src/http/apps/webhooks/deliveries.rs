//! `/apps/{app_id}/webhooks/{webhook_id}/deliveries` and `…/recover`: list deliveries, and send them again (contract
//! §7).

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path},
};
use oriva_hub_actors::model::{DeliveryId, EventId, Invalid, Timestamp, WebhookId};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Ids, nothing, webhook_id};
use crate::{
    http::{
        Problem,
        auth::AppKey,
        body::{Body, Fields, text},
        openapi::{
            answers::{Checked, Limited, WithBody},
            parameters::{OfApp, OfDelivery, OfWebhook},
            requests::{DeliveryQuery, RecoveryRequest},
        },
        path,
        query::{self, Parameters},
        rate_limit::Webhooks,
    },
    hub::Hub,
    store::{AttemptRow, DeliveryFilter, DeliveryRow, DeliveryStatus, Recovery},
};

const DEFAULT_LIMIT: u64 = 50;
const MAX_LIMIT: u64 = 100;

/// A page of deliveries.
#[derive(Serialize, ToSchema)]
#[schema(as = Deliveries)]
struct DeliveriesView<'a> {
    deliveries: Vec<DeliveryView<'a>>,
    limit: u32,
    /// Whether there may be a next page.
    has_more: bool,
    next_cursor: Option<String>,
}

/// The progress of a recovery.
#[derive(Serialize, ToSchema)]
#[schema(as = Recovery)]
struct RecoveryView {
    #[schema(value_type = String, format = "uuid")]
    recovery_id: Uuid,
    webhook_id: WebhookId,
    since: Timestamp,
    status: RecoveryStatus,
    /// Number of deliveries queued so far.
    queued: u64,
    /// Number of offsets in the app's stream that are still to be examined.
    remaining: u64,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum RecoveryStatus {
    Running,
    Finished,
}

/// A delivery of an event to a webhook.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
struct DeliveryView<'a> {
    delivery_id: DeliveryId,
    event_id: EventId,
    event_type: &'a str,
    status: DeliveryStatus,
    /// All attempts, including those before a redelivery. Not in the answer of a redelivery.
    attempts: Vec<AttemptView<'a>>,
    /// Number of attempts since the delivery was queued or last redelivered.
    attempt_count: u16,
    next_attempt_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// One attempt at a delivery.
#[derive(Serialize, ToSchema)]
#[schema(as = Attempt)]
struct AttemptView<'a> {
    delivery_attempt: u16,
    delivered_at: Timestamp,
    success: bool,
    status_code: Option<u16>,
    response_time_ms: Option<u32>,
    response_body: Option<&'a str>,
    error_message: Option<&'a str>,
}

impl<'a> From<&'a DeliveryRow> for DeliveryView<'a> {
    fn from(row: &'a DeliveryRow) -> Self {
        let attempt = |row: &'a AttemptRow| AttemptView {
            delivery_attempt: row.number,
            delivered_at: row.at,
            success: row.success,
            status_code: row.status_code,
            response_time_ms: row.response_time_ms,
            response_body: row.response_body.as_deref(),
            error_message: row.error_message.as_deref(),
        };
        Self {
            delivery_id: row.id,
            event_id: row.event_id,
            event_type: &row.event_type,
            status: row.status,
            attempts: row.log.iter().map(attempt).collect(),
            attempt_count: row.attempts,
            next_attempt_at: (row.status == DeliveryStatus::Pending).then_some(row.next_attempt_at),
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// Lists deliveries with their attempts, newest first.
#[utoipa::path(
    get,
    path = "/api/v1/apps/{app_id}/webhooks/{webhook_id}/deliveries",
    operation_id = "listDeliveries",
    tag = "Webhooks",
    params(OfApp, OfWebhook, DeliveryQuery),
    responses(
        (status = 200, description = "A page of deliveries", body = DeliveriesView),
        Limited,
        Checked
    ),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("webhooks"))),
)]
pub async fn list(
    app: AppKey<Webhooks>,
    hub: Data<Hub>,
    path: Path<Ids>,
    parameters: Parameters,
) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&path.1)?;
    let (mut fields, _) = query::fields(parameters, []);
    let limit = fields.optional("limit", query::number(1..=MAX_LIMIT)).unwrap_or(DEFAULT_LIMIT);
    let filter = DeliveryFilter {
        status: fields.optional("status", delivery_status),
        event_type: fields.optional("event_type", text(1..=128)),
        since: fields.optional("since", Timestamp::parse),
        limit: u32::try_from(limit).unwrap_or(1),
        after: query::cursor(&mut fields, 0, |text| text.parse().ok().map(DeliveryId)),
    };
    fields.finish().map_err(Problem::invalid)?;
    let rows = hub.webhook_deliveries(app.holder(), id, &filter).await?;
    let is_full = rows.len() == filter.limit as usize;
    let next_cursor = rows.last().filter(|_| is_full).map(|last| query::encode(&last.id.to_string()));
    let deliveries = rows.iter().map(DeliveryView::from).collect();
    Ok(HttpResponse::Ok().json(DeliveriesView {
        deliveries,
        limit: filter.limit,
        has_more: next_cursor.is_some(),
        next_cursor,
    }))
}

/// Queues a delivery again.
#[utoipa::path(
    post,
    path = "/api/v1/apps/{app_id}/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
    operation_id = "redeliver",
    tag = "Webhooks",
    params(OfApp, OfWebhook, OfDelivery),
    responses(
        (status = 202, description = "The delivery was queued", body = DeliveryView),
        Limited,
        WithBody
    ),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("webhooks"))),
)]
pub async fn redeliver(
    app: AppKey<Webhooks>,
    hub: Data<Hub>,
    request: HttpRequest,
    path: Path<(String, String, String)>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&path.1)?;
    let delivery = DeliveryId(path::uuid(&path.2)?);
    nothing(body).await?;
    let row = hub.redeliver(app.holder(), id, delivery, &app.audit(&request)).await?;
    Ok(HttpResponse::Accepted().json(DeliveryView::from(&row)))
}

/// Queues all events again that have no successful delivery since a moment.
#[utoipa::path(
    post,
    path = "/api/v1/apps/{app_id}/webhooks/{webhook_id}/recover",
    operation_id = "recoverWebhook",
    tag = "Webhooks",
    params(OfApp, OfWebhook),
    request_body = RecoveryRequest,
    responses(
        (status = 202, description = "The recovery was started", body = RecoveryView),
        Limited,
        WithBody
    ),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("webhooks"))),
)]
pub async fn recover(
    app: AppKey<Webhooks>,
    hub: Data<Hub>,
    request: HttpRequest,
    path: Path<Ids>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&path.1)?;
    hub.webhook(app.holder(), id).await?;
    let bytes = body.json().await?;
    let mut fields = Fields::parse(&bytes)?;
    let since = fields.required("since", Timestamp::parse);
    fields.finish().map_err(Problem::invalid)?;
    let since = since.ok_or_else(|| Problem::invalid(Vec::new()))?;
    let recovery = hub.recover_webhook(app.holder(), id, since, &app.audit(&request)).await?;
    Ok(HttpResponse::Accepted().json(RecoveryView::from(&recovery)))
}

/// Returns the progress of the last recovery.
#[utoipa::path(
    get,
    path = "/api/v1/apps/{app_id}/webhooks/{webhook_id}/recover",
    operation_id = "getWebhookRecovery",
    tag = "Webhooks",
    params(OfApp, OfWebhook),
    responses((status = 200, description = "The recovery", body = RecoveryView), Limited),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("webhooks"))),
)]
pub async fn recovery(app: AppKey<Webhooks>, hub: Data<Hub>, path: Path<Ids>) -> Result<HttpResponse, Problem> {
    let recovery = hub.webhook_recovery(app.holder(), webhook_id(&path.1)?).await?;
    Ok(HttpResponse::Ok().json(RecoveryView::from(&recovery)))
}

impl From<&Recovery> for RecoveryView {
    fn from(recovery: &Recovery) -> Self {
        let is_finished = recovery.finished_at.is_some();
        Self {
            recovery_id: recovery.id,
            webhook_id: recovery.webhook_id,
            since: recovery.since,
            status: if is_finished { RecoveryStatus::Finished } else { RecoveryStatus::Running },
            queued: recovery.queued,
            remaining: recovery.until.saturating_sub(recovery.position),
            created_at: recovery.created_at,
            finished_at: recovery.finished_at,
        }
    }
}

fn delivery_status(text: &str) -> Result<DeliveryStatus, Invalid> {
    DeliveryStatus::from_name(text)
        .ok_or_else(|| Invalid("must be one of pending, delivering, succeeded, failed, cancelled".to_owned()))
}
