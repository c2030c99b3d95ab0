//! `/apps/{app_id}/webhooks`: register, change, test and delete webhooks (contract §7).

pub mod deliveries;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header,
    web::{Data, Path},
};
use oriva_hub_actors::{
    BreakerState,
    model::{AppId, EventPattern, Invalid, MAX_PATTERNS, Timestamp, WebhookId},
    ports::{PayloadForm, Verdict},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    http::{
        Problem,
        auth::AppKey,
        body::{Body, Fields, text},
        openapi::{
            answers::{Checked, Limited, WithBody},
            parameters::{OfApp, OfWebhook},
            requests::{self, WebhookInput, WebhookQuery},
        },
        path,
        query::{self, Parameters},
        rate_limit::Webhooks,
    },
    hub::{Hub, NewWebhookRequest},
    store::{Webhook, WebhookChange},
};

const DEFAULT_LIMIT: u64 = 100;
const MAX_LIMIT: u64 = 100;
const DEFAULT_RETRIES: u64 = 5;
const MAX_RETRIES: u64 = 10;
const DEFAULT_BACKOFF_SECONDS: u64 = 1;
const MAX_BACKOFF_SECONDS: u64 = 60;
const MAX_DESCRIPTION: usize = 500;

/// A webhook as its app sees it: without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
struct WebhookView<'a> {
    webhook_id: WebhookId,
    app_id: &'a AppId,
    webhook_url: &'a str,
    subscribed_events: &'a [String],
    is_active: bool,
    disabled_reason: Option<&'a str>,
    /// Set if the webhook keeps failing and will be disabled, or if a pattern can match no event.
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
    payload: PayloadForm,
    /// `open` after ten failed attempts in a row: until the next probe nothing is sent. `half_open`: a probe is due. As the
    /// node sees it that answers.
    breaker: BreakerView,
    previous_secret_expires_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// The state of a webhook's circuit breaker.
#[derive(Serialize, ToSchema)]
#[schema(as = Breaker)]
#[serde(rename_all = "snake_case")]
enum BreakerView {
    Closed,
    HalfOpen,
    Open,
}

impl From<BreakerState> for BreakerView {
    fn from(state: BreakerState) -> Self {
        match state {
            BreakerState::Closed => Self::Closed,
            BreakerState::HalfOpen => Self::HalfOpen,
            BreakerState::Open { .. } => Self::Open,
        }
    }
}

impl<'a> WebhookView<'a> {
    async fn one(webhook: &'a Webhook, hub: &Hub) -> Self {
        let breakers = hub.webhook_breakers(std::slice::from_ref(webhook)).await;
        Self::from_webhook(webhook, breakers.first().copied().unwrap_or(BreakerState::Closed), hub)
    }

    fn from_webhook(webhook: &'a Webhook, breaker: BreakerState, hub: &Hub) -> Self {
        Self {
            webhook_id: webhook.id,
            app_id: &webhook.app_id,
            webhook_url: &webhook.url,
            subscribed_events: &webhook.subscribed_events,
            is_active: webhook.is_active,
            disabled_reason: webhook.disabled_reason.as_deref(),
            warning: hub.webhook_warning(webhook),
            description: webhook.description.as_deref(),
            last_delivery_at: webhook.last_delivery_at,
            last_success_at: webhook.last_success_at,
            last_failure_at: webhook.last_failure_at,
            consecutive_failures: webhook.consecutive_failures,
            total_deliveries: webhook.total_deliveries,
            total_failures: webhook.total_failures,
            max_retries: webhook.max_retries,
            retry_backoff_seconds: webhook.retry_backoff_seconds,
            payload: webhook.payload,
            breaker: breaker.into(),
            previous_secret_expires_at: webhook.previous_secret_expires_at.filter(|until| *until > Timestamp::now()),
            created_at: webhook.created_at,
            updated_at: webhook.updated_at,
        }
    }
}

/// A webhook with its secret, shown once.
#[derive(Serialize, ToSchema)]
struct WebhookWithSecret<'a> {
    #[serde(flatten)]
    webhook: WebhookView<'a>,
    webhook_secret: String,
}

/// An app's webhooks.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhooks)]
struct WebhooksView<'a> {
    webhooks: Vec<WebhookView<'a>>,
    /// Whether there may be a next page.
    has_more: bool,
    next_cursor: Option<String>,
}

/// A new secret, shown once.
#[derive(Serialize, ToSchema)]
struct RotatedSecret {
    webhook_id: WebhookId,
    webhook_secret: String,
    /// Until this moment requests are signed with the old secret too.
    previous_secret_expires_at: Option<Timestamp>,
}

/// The result of a test.
#[derive(Serialize, ToSchema)]
struct TestOutcome {
    success: bool,
    status_code: Option<u16>,
    response_time_ms: u64,
    error_message: Option<String>,
}

/// Registers a webhook.
///
/// Its secret is shown only in this answer.
#[utoipa::path(
    post,
    path = "/api/v1/apps/{app_id}/webhooks",
    operation_id = "createWebhook",
    tag = "Webhooks",
    params(OfApp),
    request_body = WebhookInput,
    responses(
        (
            status = 201,
            description = "The new webhook and its secret",
            body = WebhookWithSecret,
            headers(("Location" = String, description = "Its address"))
        ),
        Limited,
        WithBody
    ),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("webhooks"))),
)]
pub async fn create(
    app: AppKey<Webhooks>,
    hub: Data<Hub>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let bytes = body.json().await?;
    let mut fields = Fields::parse(&bytes)?;
    let url = fields.required("webhook_url", |text| hub.webhook_url(text));
    let events = patterns(&mut fields, true);
    let description = fields.optional("description", text(0..=MAX_DESCRIPTION));
    let max_retries = fields.integer("max_retries", 1..=MAX_RETRIES).unwrap_or(DEFAULT_RETRIES);
    let backoff = fields.integer("retry_backoff_seconds", 1..=MAX_BACKOFF_SECONDS).unwrap_or(DEFAULT_BACKOFF_SECONDS);
    let payload = fields.optional("payload", PayloadForm::parse);
    fields.finish().map_err(Problem::invalid)?;
    let (Some(url), Some(subscribed_events)) = (url, events) else { return Err(Problem::invalid(Vec::new())) };
    let wanted = NewWebhookRequest {
        url,
        subscribed_events,
        description,
        max_retries: small(max_retries),
        retry_backoff_seconds: small(backoff),
        payload: payload.unwrap_or_default(),
    };
    let shown = hub.create_webhook(app.holder(), wanted, &app.audit(&request)).await?;
    let location = format!("/api/v1/apps/{}/webhooks/{}", shown.webhook.app_id, shown.webhook.id);
    Ok(HttpResponse::Created().insert_header((header::LOCATION, location)).json(WebhookWithSecret {
        webhook: WebhookView::one(&shown.webhook, &hub).await,
        webhook_secret: shown.secret,
    }))
}

/// Lists the app's webhooks, oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/apps/{app_id}/webhooks",
    operation_id = "listWebhooks",
    tag = "Webhooks",
    params(OfApp, WebhookQuery),
    responses((status = 200, description = "A page of webhooks", body = WebhooksView), Limited, Checked),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("webhooks"))),
)]
pub async fn list(app: AppKey<Webhooks>, hub: Data<Hub>, parameters: Parameters) -> Result<HttpResponse, Problem> {
    let (mut fields, _) = query::fields(parameters, []);
    let limit = fields.optional("limit", query::number(1..=MAX_LIMIT)).unwrap_or(DEFAULT_LIMIT);
    let after = query::cursor(&mut fields, 0, |text| text.parse().ok().map(WebhookId));
    fields.finish().map_err(Problem::invalid)?;
    let limit = u32::from(small(limit));
    let webhooks = hub.list_webhooks(app.holder(), after, limit).await?;
    let breakers = hub.webhook_breakers(&webhooks).await;
    let is_full = webhooks.len() == limit as usize;
    let next_cursor = webhooks.last().filter(|_| is_full).map(|last| query::encode(&last.id.to_string()));
    let views =
        webhooks.iter().zip(breakers).map(|(webhook, breaker)| WebhookView::from_webhook(webhook, breaker, &hub));
    Ok(HttpResponse::Ok().json(WebhooksView {
        webhooks: views.collect(),
        has_more: next_cursor.is_some(),
        next_cursor,
    }))
}

/// Returns one webhook.
#[utoipa::path(
    get,
    path = "/api/v1/apps/{app_id}/webhooks/{webhook_id}",
    operation_id = "getWebhook",
    tag = "Webhooks",
    params(OfApp, OfWebhook),
    responses((status = 200, description = "The webhook", body = WebhookView), Limited),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("webhooks"))),
)]
pub async fn get(app: AppKey<Webhooks>, hub: Data<Hub>, path: Path<Ids>) -> Result<HttpResponse, Problem> {
    let webhook = hub.webhook(app.holder(), webhook_id(&path.1)?).await?;
    Ok(HttpResponse::Ok().json(WebhookView::one(&webhook, &hub).await))
}

/// Changes a webhook.
#[utoipa::path(
    patch,
    path = "/api/v1/apps/{app_id}/webhooks/{webhook_id}",
    operation_id = "changeWebhook",
    tag = "Webhooks",
    params(OfApp, OfWebhook),
    request_body = requests::WebhookChange,
    responses(
        (status = 200, description = "The webhook", body = WebhookView),
        Limited,
        WithBody
    ),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("webhooks"))),
)]
pub async fn update(
    app: AppKey<Webhooks>,
    hub: Data<Hub>,
    request: HttpRequest,
    path: Path<Ids>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&path.1)?;
    // 404 comes before faults of the body (contract §1).
    hub.webhook(app.holder(), id).await?;
    let bytes = body.json().await?;
    let mut fields = Fields::parse(&bytes)?;
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
        payload: fields.optional("payload", PayloadForm::parse),
    };
    fields.finish().map_err(Problem::invalid)?;
    let webhook = hub.update_webhook(app.holder(), id, &change, &app.audit(&request)).await?;
    Ok(HttpResponse::Ok().json(WebhookView::one(&webhook, &hub).await))
}

/// Deletes a webhook and its deliveries.
#[utoipa::path(
    delete,
    path = "/api/v1/apps/{app_id}/webhooks/{webhook_id}",
    operation_id = "deleteWebhook",
    tag = "Webhooks",
    params(OfApp, OfWebhook),
    responses((status = 204, description = "The webhook was deleted"), Limited),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("webhooks"))),
)]
pub async fn delete(
    app: AppKey<Webhooks>,
    hub: Data<Hub>,
    request: HttpRequest,
    path: Path<Ids>,
) -> Result<HttpResponse, Problem> {
    hub.delete_webhook(app.holder(), webhook_id(&path.1)?, &app.audit(&request)).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Creates a new secret.
///
/// It is shown only in this answer. For one day, requests are signed with the old secret too.
#[utoipa::path(
    post,
    path = "/api/v1/apps/{app_id}/webhooks/{webhook_id}/rotate-secret",
    operation_id = "rotateWebhookSecret",
    tag = "Webhooks",
    params(OfApp, OfWebhook),
    responses(
        (status = 200, description = "The new secret", body = RotatedSecret),
        Limited,
        WithBody
    ),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("webhooks"))),
)]
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
    Ok(HttpResponse::Ok().json(RotatedSecret {
        webhook_id: id,
        webhook_secret: shown.secret,
        previous_secret_expires_at: shown.webhook.previous_secret_expires_at,
    }))
}

/// Sends a `webhook.test` now and returns the result.
#[utoipa::path(
    post,
    path = "/api/v1/apps/{app_id}/webhooks/{webhook_id}/test",
    operation_id = "testWebhook",
    tag = "Webhooks",
    params(OfApp, OfWebhook),
    responses(
        (status = 200, description = "The result of the test", body = TestOutcome),
        Limited,
        WithBody
    ),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("webhooks"))),
)]
pub async fn test(app: AppKey<Webhooks>, hub: Data<Hub>, path: Path<Ids>, body: Body) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&path.1)?;
    nothing(body).await?;
    let report = hub.test_webhook(app.holder(), id).await?;
    Ok(HttpResponse::Ok().json(TestOutcome {
        success: report.verdict == Verdict::Delivered,
        status_code: report.status_code,
        response_time_ms: u64::try_from(report.response_time.as_millis()).unwrap_or(u64::MAX),
        error_message: report.error,
    }))
}

/// The ids of app and webhook in the path.
type Ids = (String, String);

fn webhook_id(text: &str) -> Result<WebhookId, Problem> {
    path::uuid(text).map(WebhookId)
}

async fn nothing(body: Body) -> Result<(), Problem> {
    Fields::parse(&body.json_or_nothing().await?)?.finish().map_err(Problem::invalid)
}

fn small(number: u64) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// 1 to 100 patterns, without duplicates.
fn patterns(fields: &mut Fields<'_>, is_required: bool) -> Option<Vec<String>> {
    const NAME: &str = "subscribed_events";
    if !is_required && !fields.has(NAME) {
        return None;
    }
    let mut patterns: Vec<String> = Vec::new();
    for item in fields.batch(NAME, MAX_PATTERNS)? {
        match serde_json::from_str::<String>(item.get()).map(|text| EventPattern::parse(&text)) {
            Ok(Ok(pattern)) => {
                if !patterns.iter().any(|held| held == pattern.as_str()) {
                    patterns.push(pattern.as_str().to_owned());
                }
            }
            Ok(Err(Invalid(rule))) => {
                fields.fault(NAME, &format!("{rule}: {item}"));
                return None;
            }
            Err(_) => {
                fields.fault(NAME, "must be strings");
                return None;
            }
        }
    }
    Some(patterns)
}
