//! What surrounds every request: its id, its log line, security headers, rate-limit headers, and the refusal of new
//! work while the hub drains.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use actix_web::{
    Error, HttpMessage, ResponseError as _,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web::Data,
};
use oriva_hub_actors::{
    model::TraceParent,
    traces::{Span, SpanKind},
};
use uuid::Uuid;

use super::problem::Problem;
use crate::{hub::Hub, limits::RateLimitStatus, metrics};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How long a request may take, its body included: longer than the slowest webhook that is tested.
const LONGEST_ANSWER: Duration = Duration::from_secs(75);

tokio::task_local! {
    static CURRENT: RefCell<String>;
}

/// The id of the request that is being worked on.
#[must_use]
pub fn request_id() -> String {
    CURRENT.try_with(|id| id.borrow().clone()).unwrap_or_default()
}

/// Runs something under a request's id.
pub(super) async fn with_request_id<F: Future>(id: String, work: F) -> F::Output {
    CURRENT.scope(RefCell::new(id), work).await
}

/// The client's own id where it is one that a log can hold, otherwise a new one.
pub(super) fn choose_request_id(headers: &HeaderMap) -> String {
    let theirs = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok());
    let fits = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    theirs.filter(fits).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// The outermost layer.
///
/// # Errors
/// None of its own.
pub async fn request_context(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let id = choose_request_id(request.headers());
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.path().to_owned());
    let is_probe = matches!(&*path, "/healthz" | "/readyz" | "/metrics");
    let parent = trace_parent(request.headers());
    let mut span = if is_probe { Span::default() } else { Span::begin("request", SpanKind::Server, parent) };
    if let Some(context) = span.context() {
        request.extensions_mut().insert(context);
    }
    let _in_hand = request.app_data::<Data<Hub>>().map(|hub| hub.track_request());
    let is_draining = request.app_data::<Data<Hub>>().is_some_and(|hub| hub.is_draining());
    let secure = request.app_config().secure() || request.connection_info().scheme() == "https";
    let mut response = if is_draining && !is_probe {
        let problem = Problem::overloaded("the hub is stopping; ask again");
        let answer = with_request_id(id.clone(), async { problem.error_response() }).await;
        request.into_response(answer).map_into_right_body()
    } else {
        let hub = request.app_data::<Data<Hub>>().cloned();
        let answer = with_request_id(id.clone(), next.call(request));
        match tokio::time::timeout(LONGEST_ANSWER, answer).await {
            Ok(answer) => answer?.map_into_left_body(),
            Err(_) => {
                describe(&mut span, &id, &method, None, StatusCode::SERVICE_UNAVAILABLE);
                return Err(given_up(&id, &method, &path, began, hub).await);
            }
        }
    };
    let status = response.request().extensions().get::<RateLimitStatus>().copied();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    add_security_headers(headers, secure);
    if let Some(status) = status {
        add_rate_limit_headers(headers, &status);
    }
    let route = response.request().match_pattern();
    describe(&mut span, &id, &method, route.as_deref(), response.status());
    metrics::request(&method, route, response.status().as_u16(), began.elapsed());
    log(&id, &method, &path, response.status(), began.elapsed());
    Ok(response)
}

/// The answer to a request that took too long. The request itself is gone with what served it.
async fn given_up(id: &str, method: &Method, path: &str, began: Instant, hub: Option<Data<Hub>>) -> Error {
    if let Some(hub) = hub {
        hub.request_timed_out();
    }
    let problem = Problem::overloaded("the answer took too long; ask again");
    let mut answer = with_request_id(id.to_owned(), async { problem.error_response() }).await;
    if let Ok(value) = HeaderValue::from_str(id) {
        answer.headers_mut().insert(REQUEST_ID, value);
    }
    add_security_headers(answer.headers_mut(), false);
    metrics::request(method, None, answer.status().as_u16(), began.elapsed());
    log(id, method, path, answer.status(), began.elapsed());
    InternalError::from_response("", answer).into()
}

/// The caller's span, where it says one.
fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    TraceParent::parse(headers.get("traceparent")?.to_str().ok()?)
}

fn describe(span: &mut Span, id: &str, method: &Method, route: Option<&str>, status: StatusCode) {
    if !span.is_recorded() {
        return;
    }
    let method = metrics::method_label(method);
    match route {
        Some(route) => {
            span.name(format!("{method} {route}"));
            span.set("http.route", route.to_owned());
        }
        None => span.name(method.clone()),
    }
    span.set("http.request.method", method);
    span.set("http.response.status_code", i64::from(status.as_u16()));
    span.set("oriva.request_id", id.to_owned());
    if status.is_server_error() {
        span.failed("");
    }
}

/// One line a request: quiet for what went well, so that a busy hub's log is not its bottleneck.
fn log(id: &str, method: &Method, path: &str, status: StatusCode, took: Duration) {
    let (status, duration_ms) = (status.as_u16(), took.as_secs_f64() * 1000.0);
    // The path and never the query, which may hold a token.
    match status {
        500.. => tracing::warn!(request_id = id, %method, path, status, duration_ms, "request"),
        400.. => tracing::info!(request_id = id, %method, path, status, duration_ms, "request"),
        _ => tracing::debug!(request_id = id, %method, path, status, duration_ms, "request"),
    }
}

/// What every answer says to browsers: it is data, not a page.
pub(super) fn add_security_headers(headers: &mut HeaderMap, secure: bool) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    if secure {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
}

/// Both families: the ones in use everywhere, and draft-ietf-httpapi-ratelimit-headers.
fn add_rate_limit_headers(headers: &mut HeaderMap, status: &RateLimitStatus) {
    let (limit, window) = (status.limit.requests, status.limit.window.as_secs());
    let left = status.reset_in.as_secs() + u64::from(status.reset_in.subsec_nanos() > 0);
    let reset = chrono::Utc::now().timestamp().unsigned_abs() + left;
    let class = status.class.as_str();
    for (name, value) in [
        ("x-ratelimit-limit", limit.to_string()),
        ("x-ratelimit-remaining", status.remaining.to_string()),
        ("x-ratelimit-reset", reset.to_string()),
        ("ratelimit-policy", format!(r#""{class}";q={limit};w={window}"#)),
        ("ratelimit", format!(r#""{class}";r={};t={left}"#, status.remaining)),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}
