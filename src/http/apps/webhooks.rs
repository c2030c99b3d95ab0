//! `/apps/{app_id}/webhooks`: registered, changed, tested, repaired (contract §7).

use actix_web::{
    HttpRequest, HttpResponse,
    http::header,
    web::{Data, Path},
};
use oriva_hub_actors::model::{
    AppId, DeliveryId, EventId, EventPattern, Invalid, MAX_PATTERNS, Timestamp, Verdict, WebhookId,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    http::{
        Problem,
        body::{Body, Fields, text},
        caller::{AppKey, Webhooks, path_id},
        query::{self, Parameters},
    },
    hub::{Hub, WebhookWanted, warning},
    store::{AttemptRow, DeliveryFilter, DeliveryRow, DeliveryStatus, Recovery, Webhook, WebhookChange},
};

const DEFAULT_RETRIES: u64 = 5;
const MAX_RETRIES: u64 = 10;
const DEFAULT_BACKOFF_SECONDS: u64 = 1;
const MAX_BACKOFF_SECONDS: u64 = 60;
const MAX_DESCRIPTION: usize = 500;
const DEFAULT_LIMIT: u64 = 50;
const MAX_LIMIT: u64 = 100;

/// A webhook as its app sees it: without its secret.
#[derive(Serialize)]
struct WebhookView<'a> {
    webhook_id: WebhookId,
    app_id: &'a AppId,
    webhook_url: &'a str,
    subscribed_events: &'a [String],
    is_active: bool,
    disabled_reason: Option<&'a str>,
    /// Where it keeps failing and is going to be disabled.
    warning: Option<String>,
    description: Option<&'a str>,
    last_delivery_at: Option<Timestamp>,
    last_success_at: Option<Timestamp>,
    last_failure_at: Option<Timestamp>,
    consecutive_failures: u32,
    total_deliveries: u64,
    total_failures: u64,
    max_retries: u16,
    retry_backoff_seconds: u16,
    previous_secret_expires_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl<'a> WebhookView<'a> {
    fn of(webhook: &'a Webhook, hub: &Hub) -> Self {
        Self {
            webhook_id: webhook.id,
            app_id: &webhook.app_id,
            webhook_url: &webhook.url,
            subscribed_events: &webhook.subscribed_events,
            is_active: webhook.is_active,
            disabled_reason: webhook.disabled_reason.as_deref(),
            warning: warning(webhook, hub.disables_after()),
            description: webhook.description.as_deref(),
            last_delivery_at: webhook.last_delivery_at,
            last_success_at: webhook.last_success_at,
            last_failure_at: webhook.last_failure_at,
            consecutive_failures: webhook.consecutive_failures,
            total_deliveries: webhook.total_deliveries,
            total_failures: webhook.total_failures,
            max_retries: webhook.max_retries,
            retry_backoff_seconds: webhook.retry_backoff_seconds,
            previous_secret_expires_at: webhook.previous_secret_expires_at.filter(|until| *until > Timestamp::now()),
            created_at: webhook.created_at,
            updated_at: webhook.updated_at,
        }
    }
}

#[derive(Serialize)]
struct DeliveryView<'a> {
    delivery_id: DeliveryId,
    event_id: EventId,
    event_type: &'a str,
    status: &'a str,
    attempts: Vec<AttemptView<'a>>,
    attempt_count: u16,
    next_attempt_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Serialize)]
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
            status: row.status.as_str(),
            attempts: row.log.iter().map(attempt).collect(),
            attempt_count: row.attempts,
            next_attempt_at: (row.status == DeliveryStatus::Pending).then_some(row.next_attempt_at),
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// Answers with the webhook and, this once, its secret.
///
/// # Errors
/// 401, 404, 403, 429, 400, 413, 415, 503.
pub async fn create(
    app: AppKey<Webhooks>,
    hub: Data<Hub>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let (_, map) = body.object().await?;
    let mut fields = Fields::new(map);
    let url = fields.required("webhook_url", |text| hub.webhook_url(text));
    let events = patterns(&mut fields, true);
    let description = fields.optional("description", text(0..=MAX_DESCRIPTION));
    let max_retries = fields.integer("max_retries", 1..=MAX_RETRIES).unwrap_or(DEFAULT_RETRIES);
    let backoff = fields.integer("retry_backoff_seconds", 1..=MAX_BACKOFF_SECONDS).unwrap_or(DEFAULT_BACKOFF_SECONDS);
    fields.finish().map_err(Problem::invalid)?;
    let (Some(url), Some(subscribed_events)) = (url, events) else { return Err(Problem::invalid(Vec::new())) };
    let wanted = WebhookWanted {
        url,
        subscribed_events,
        description,
        max_retries: small(max_retries),
        retry_backoff_seconds: small(backoff),
    };
    let shown = hub.create_webhook(app.holder(), wanted, &app.audit(&request)).await?;
    let location = format!("/api/v1/apps/{}/webhooks/{}", shown.webhook.app_id, shown.webhook.id);
    let mut answer = json!(WebhookView::of(&shown.webhook, &hub));
    answer["webhook_secret"] = json!(shown.secret);
    Ok(HttpResponse::Created().insert_header((header::LOCATION, location)).json(answer))
}

/// # Errors
/// 401, 404, 403, 429.
pub async fn list(app: AppKey<Webhooks>, hub: Data<Hub>) -> Result<HttpResponse, Problem> {
    let webhooks = hub.list_webhooks(app.holder()).await?;
    let views: Vec<_> = webhooks.iter().map(|webhook| WebhookView::of(webhook, &hub)).collect();
    Ok(HttpResponse::Ok().json(json!({"webhooks": views})))
}

/// # Errors
/// 401, 404, 403, 429.
pub async fn get(app: AppKey<Webhooks>, hub: Data<Hub>, path: Path<Ids>) -> Result<HttpResponse, Problem> {
    let webhook = hub.webhook(app.holder(), webhook_id(&path.1)?).await?;
    Ok(HttpResponse::Ok().json(WebhookView::of(&webhook, &hub)))
}

/// # Errors
/// 401, 404, 403, 429, 400, 413, 415.
pub async fn update(
    app: AppKey<Webhooks>,
    hub: Data<Hub>,
    request: HttpRequest,
    path: Path<Ids>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&path.1)?;
    // What is not there comes before what is wrong with the body (contract §1).
    hub.webhook(app.holder(), id).await?;
    let (_, map) = body.object().await?;
    let mut fields = Fields::new(map);
    let takes_description_away = fields.has("description");
    let change = WebhookChange {
        url: fields.optional("webhook_url", |text| hub.webhook_url(text)),
        subscribed_events: patterns(&mut fields, false),
        is_active: fields.boolean("is_active"),
        description: {
            let description = fields.optional("description", text(0..=MAX_DESCRIPTION));
            takes_description_away.then_some(description)
        },
        max_retries: fields.integer("max_retries", 1..=MAX_RETRIES).map(small),
        retry_backoff_seconds: fields.integer("retry_backoff_seconds", 1..=MAX_BACKOFF_SECONDS).map(small),
    };
    fields.finish().map_err(Problem::invalid)?;
    let webhook = hub.update_webhook(app.holder(), id, &change, &app.audit(&request)).await?;
    Ok(HttpResponse::Ok().json(WebhookView::of(&webhook, &hub)))
}

/// # Errors
/// 401, 404, 403, 429.
pub async fn delete(
    app: AppKey<Webhooks>,
    hub: Data<Hub>,
    request: HttpRequest,
    path: Path<Ids>,
) -> Result<HttpResponse, Problem> {
    hub.delete_webhook(app.holder(), webhook_id(&path.1)?, &app.audit(&request)).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Answers with the new secret, this once.
///
/// # Errors
/// 401, 404, 403, 429, 400.
pub async fn rotate_secret(
    app: AppKey<Webhooks>,
    hub: Data<Hub>,
    request: HttpRequest,
    path: Path<Ids>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&path.1)?;
    nothing(body).await?;
    let shown = hub.rotate_webhook_secret(app.holder(), id, &app.audit(&request)).await?;
    let until = shown.webhook.previous_secret_expires_at;
    Ok(HttpResponse::Ok()
        .json(json!({"webhook_id": id, "webhook_secret": shown.secret, "previous_secret_expires_at": until})))
}

/// Sends a test now and says how it went.
///
/// # Errors
/// 401, 404, 403, 429, 400.
pub async fn test(app: AppKey<Webhooks>, hub: Data<Hub>, path: Path<Ids>, body: Body) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&path.1)?;
    nothing(body).await?;
    let report = hub.test_webhook(app.holder(), id).await?;
    Ok(HttpResponse::Ok().json(json!({
        "success": report.verdict == Verdict::Delivered,
        "status_code": report.status_code,
        "response_time_ms": u64::try_from(report.response_time.as_millis()).unwrap_or(u64::MAX),
        "error_message": report.error,
    })))
}

/// A page of deliveries with their attempts, newest first.
///
/// # Errors
/// 401, 404, 403, 429, 400.
pub async fn deliveries(
    app: AppKey<Webhooks>,
    hub: Data<Hub>,
    path: Path<Ids>,
    parameters: Parameters,
) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&path.1)?;
    let (mut fields, _) = query::fields(parameters, None);
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
    let views: Vec<_> = rows.iter().map(DeliveryView::from).collect();
    Ok(HttpResponse::Ok().json(json!({"deliveries": views, "limit": limit, "next_cursor": next_cursor})))
}

/// Makes a delivery due again.
///
/// # Errors
/// 401, 404, 403, 429, 400.
pub async fn redeliver(
    app: AppKey<Webhooks>,
    hub: Data<Hub>,
    request: HttpRequest,
    path: Path<(String, String, String)>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&path.1)?;
    let delivery = DeliveryId(path_id(&path.2)?);
    nothing(body).await?;
    let row = hub.redeliver(app.holder(), id, delivery, &app.audit(&request)).await?;
    Ok(HttpResponse::Accepted().json(DeliveryView::from(&row)))
}

/// Opens a job that queues again what was missed since a moment.
///
/// # Errors
/// 401, 404, 403, 429, 400, 413, 415.
pub async fn recover(
    app: AppKey<Webhooks>,
    hub: Data<Hub>,
    request: HttpRequest,
    path: Path<Ids>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&path.1)?;
    hub.webhook(app.holder(), id).await?;
    let (_, map) = body.object().await?;
    let mut fields = Fields::new(map);
    let since = fields.required("since", Timestamp::parse);
    fields.finish().map_err(Problem::invalid)?;
    let since = since.ok_or_else(|| Problem::invalid(Vec::new()))?;
    let recovery = hub.recover_webhook(app.holder(), id, since, &app.audit(&request)).await?;
    Ok(HttpResponse::Accepted().json(recovery_view(&recovery)))
}

/// How far the last recovery has come.
///
/// # Errors
/// 401, 404, 403, 429.
pub async fn recovery(app: AppKey<Webhooks>, hub: Data<Hub>, path: Path<Ids>) -> Result<HttpResponse, Problem> {
    let recovery = hub.webhook_recovery(app.holder(), webhook_id(&path.1)?).await?;
    Ok(HttpResponse::Ok().json(recovery_view(&recovery)))
}

fn recovery_view(recovery: &Recovery) -> Value {
    json!({
        "recovery_id": recovery.id,
        "webhook_id": recovery.webhook_id,
        "since": recovery.since,
        "status": if recovery.finished_at.is_some() { "finished" } else { "running" },
        "queued": recovery.queued,
        "remaining": recovery.until.saturating_sub(recovery.position),
        "created_at": recovery.created_at,
        "finished_at": recovery.finished_at,
    })
}

/// App and webhook, as the path has them.
type Ids = (String, String);

fn webhook_id(text: &str) -> Result<WebhookId, Problem> {
    path_id(text).map(WebhookId)
}

async fn nothing(body: Body) -> Result<(), Problem> {
    Fields::new(body.object_or_nothing().await?).finish().map_err(Problem::invalid)
}

fn small(number: u64) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn delivery_status(text: &str) -> Result<DeliveryStatus, Invalid> {
    DeliveryStatus::from_name(text)
        .ok_or_else(|| Invalid("must be one of pending, delivering, succeeded, failed, cancelled".to_owned()))
}

/// 1 to 100 patterns, each once.
fn patterns(fields: &mut Fields, is_required: bool) -> Option<Vec<String>> {
    const NAME: &str = "subscribed_events";
    if !is_required && !fields.has(NAME) {
        return None;
    }
    let mut patterns: Vec<String> = Vec::new();
    for item in fields.batch(NAME, MAX_PATTERNS)? {
        match item.as_str().map(EventPattern::parse) {
            Some(Ok(pattern)) => {
                if !patterns.iter().any(|held| held == pattern.as_str()) {
                    patterns.push(pattern.as_str().to_owned());
                }
            }
            Some(Err(Invalid(rule))) => {
                fields.fault(NAME, &format!("{rule}: {item}"));
                return None;
            }
            None => {
                fields.fault(NAME, "must be strings");
                return None;
            }
        }
    }
    Some(patterns)
}
