//! The outermost layer of HTTP: request id, span, log line, security and rate-limit headers, the deadline of a request, and
//! 503 for new requests while the hub drains.

use std::time::{Duration, Instant};

use actix_web::{
    Error, HttpMessage, ResponseError as _,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderValue},
    },
    middleware::Next,
    web::Data,
};
use oriva_hub_actors::{
    model::TraceParent,
    traces::{Span, SpanKind},
};

use super::{problem::Problem, rate_limit, request_id};
use crate::{hub::Hub, limits::RateLimitStatus, metrics};

/// Deadline of a request, its body included. Longer than the slowest webhook test may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(75);

/// Runs around every handler.
///
/// # Errors
/// The handler's own, and 503 at the deadline.
pub async fn request_context(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let id = request_id::choose(request.headers());
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.path().to_owned());
    let is_probe = matches!(&*path, "/healthz" | "/readyz" | "/metrics");
    let parent = trace_parent(request.headers());
    let mut span = if is_probe { Span::default() } else { Span::begin("request", SpanKind::Server, parent) };
    if let Some(context) = span.context() {
        request.extensions_mut().insert(context);
    }
    let _tracked = request.app_data::<Data<Hub>>().map(|hub| hub.track_request());
    let is_draining = request.app_data::<Data<Hub>>().is_some_and(|hub| hub.is_draining());
    let secure = request.app_config().secure() || request.connection_info().scheme() == "https";
    let mut response = if is_draining && !is_probe {
        let problem = Problem::overloaded("the hub is stopping; ask again");
        let answer = request_id::scope(id.clone(), async { problem.error_response() }).await;
        request.into_response(answer).map_into_right_body()
    } else {
        let hub = request.app_data::<Data<Hub>>().cloned();
        let answer = request_id::scope(id.clone(), next.call(request));
        match tokio::time::timeout(REQUEST_DEADLINE, answer).await {
            Ok(answer) => answer?.map_into_left_body(),
            Err(_) => {
                describe(&mut span, &id, &method, None, StatusCode::SERVICE_UNAVAILABLE);
                return Err(timed_out(&id, &method, &path, began, hub).await);
            }
        }
    };
    let status = response.request().extensions().get::<RateLimitStatus>().copied();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(request_id::HEADER, value);
    }
    add_security_headers(headers, secure);
    if let Some(status) = status {
        rate_limit::add_headers(headers, &status);
    }
    let route = response.request().match_pattern();
    describe(&mut span, &id, &method, route.as_deref(), response.status());
    metrics::request(&method, route, response.status().as_u16(), began.elapsed());
    log(&id, &method, &path, response.status(), began.elapsed());
    Ok(response)
}

/// The answer to a request that passed its deadline. Its handler is dropped, and with it whatever it waited for.
async fn timed_out(id: &str, method: &Method, path: &str, began: Instant, hub: Option<Data<Hub>>) -> Error {
    if let Some(hub) = hub {
        hub.request_timed_out();
    }
    let problem = Problem::overloaded("the answer took too long; ask again");
    let mut answer = request_id::scope(id.to_owned(), async { problem.error_response() }).await;
    if let Ok(value) = HeaderValue::from_str(id) {
        answer.headers_mut().insert(request_id::HEADER, value);
    }
    add_security_headers(answer.headers_mut(), false);
    metrics::request(method, None, answer.status().as_u16(), began.elapsed());
    log(id, method, path, answer.status(), began.elapsed());
    InternalError::from_response("", answer).into()
}

/// The caller's span, if the request names it.
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

/// Writes one line for each request, at debug level for what went well, so that a busy hub's log is not its bottleneck.
fn log(id: &str, method: &Method, path: &str, status: StatusCode, took: Duration) {
    let (status, duration_ms) = (status.as_u16(), took.as_secs_f64() * 1000.0);
    // The path and never the query, which may hold a token.
    match status {
        500.. => tracing::warn!(request_id = id, %method, path, status, duration_ms, "request"),
        400.. => tracing::info!(request_id = id, %method, path, status, duration_ms, "request"),
        _ => tracing::debug!(request_id = id, %method, path, status, duration_ms, "request"),
    }
}

/// Headers that tell a browser to treat an answer as data, not as a page.
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
