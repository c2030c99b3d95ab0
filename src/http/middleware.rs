//! The layers around every handler. [`request_context`] is the outermost: request id, span, log line, security and
//! rate-limit headers. [`admission`] stands within CORS, so that a browser can read its refusals: the deadline of a
//! request, and 503 while the hub stops or too many answers wait.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use actix_cors::CorsError;
use actix_web::{
    Error, HttpMessage, ResponseError as _,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{
        ConnectionType, Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web::Data,
};
use oriva_hub_actors::{
    model::TraceParent,
    traces::{Span, SpanKind},
};

use super::{
    paced::{Paced, PendingAnswers},
    problem::{Code, Problem},
    rate_limit, request_id,
    unread_body::UnreadBody,
};
use crate::{hub::Hub, limits::RateLimitStatus, metrics};

/// How long an idle connection is kept.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// What clients are told of that: a little less, so that none uses a connection that is just being closed.
const KEEP_ALIVE_HINT: &str = "timeout=70";

/// Deadline of a request, its body included. Longer than the slowest webhook test may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(75);

/// Whether this hub's own connections are TLS.
#[derive(Debug, Clone, Copy)]
pub struct OwnTls(pub bool);

/// Whether an answer on this connection said that it is the last. Requests behind it are neither read nor worked on: the
/// client may send them again elsewhere (RFC 9112 §9.6).
#[derive(Debug, Default)]
pub struct ClosingAnswer(Cell<bool>);

impl ClosingAnswer {
    /// Whether there was such an answer.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.get()
    }

    /// There was one.
    pub fn set(&self) {
        self.0.set(true);
    }
}

/// Runs around every handler.
///
/// # Errors
/// The handler's own, as an answer.
pub async fn request_context(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let id = request_id::choose(request.headers());
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.path().to_owned());
    let is_probe = is_probe(&path);
    let parent = trace_parent(request.headers());
    let mut span = if is_probe { Span::default() } else { Span::begin("request", SpanKind::Server, parent) };
    if let Some(context) = span.context() {
        request.extensions_mut().insert(context);
    }
    let _tracked = request.app_data::<Data<Hub>>().map(|hub| hub.track_request());
    // actix-http ends a connection after a request that asked for any upgrade, h2c for example. The client has to know,
    // or it sends its next request into the closing connection.
    let mut is_last = matches!(request.head().connection_type(), ConnectionType::Upgrade | ConnectionType::Close);
    let closing = request.conn_data::<Rc<ClosingAnswer>>().cloned();
    let is_behind_last = closing.as_ref().is_some_and(|closing| closing.is_set());
    let has_own_tls = request.app_data::<Data<OwnTls>>().is_some_and(|own_tls| own_tls.0);
    let secure = has_own_tls || request.connection_info().scheme() == "https";
    let hub = request.app_data::<Data<Hub>>().cloned();
    let pending = pending_answers(&request);
    let body = UnreadBody::lend(&mut request);
    let work = async {
        if is_behind_last {
            let answer = Problem::overloaded("the connection was to end with an earlier request").error_response();
            return Ok(request.into_response(answer).map_into_right_body());
        }
        match next.call(request).await {
            Ok(answer) => match cors_refusal(&answer) {
                Some(problem) => Ok(answer.into_response(problem.error_response()).map_into_right_body()),
                None => Ok(answer.map_into_left_body()),
            },
            Err(error) => Err(error.error_response()),
        }
    };
    let mut answer = request_id::scope(id.clone(), work).await;
    let (status, route, limit) = match &answer {
        Ok(answer) => {
            let request = answer.request();
            (answer.status(), request.match_pattern(), request.extensions().get::<RateLimitStatus>().copied())
        }
        // The request is gone with its handler.
        Err(answer) => (answer.status(), None, None),
    };
    let is_refused = status.is_client_error() || status.is_server_error();
    if let Some(body) = body.filter(|_| is_refused && !is_last && !is_behind_last) {
        body.read_off().await;
    }
    // A client that keeps its connection would send its next request into a node that is gone.
    is_last |= hub.is_some_and(|hub| hub.is_draining());
    let head = match &mut answer {
        Ok(answer) => answer.response_mut().head_mut(),
        Err(answer) => answer.head_mut(),
    };
    if is_last || is_behind_last {
        head.set_connection_type(ConnectionType::Close);
        closing.iter().for_each(|closing| closing.set());
    }
    let headers = head.headers_mut();
    if !is_last && !is_behind_last {
        headers.insert(HeaderName::from_static("keep-alive"), HeaderValue::from_static(KEEP_ALIVE_HINT));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(request_id::HEADER, value);
    }
    add_security_headers(headers, secure);
    if let Some(limit) = limit {
        rate_limit::add_headers(headers, &limit);
    }
    describe(&mut span, &id, &method, route.as_deref(), status);
    metrics::request(&method, route, status.as_u16(), began.elapsed());
    log(&id, &method, &path, status, began.elapsed());
    let answer = answer.map(|answer| answer.map_into_boxed_body().map_body(|_, body| Paced::new(body, &pending)));
    answer.map_err(|answer| InternalError::from_response("", answer).into())
}

/// Decides whether a request is worked on now, and for how long.
///
/// # Errors
/// The handler's own, and 503 at the deadline.
pub async fn admission(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let refuse = |problem: Problem| problem.error_response().map_into_right_body();
    let hub = request.app_data::<Data<Hub>>().cloned();
    if !is_probe(request.path()) {
        if hub.as_ref().is_some_and(|hub| hub.refuses_work()) {
            return Ok(request.into_response(refuse(Problem::overloaded("the hub is stopping; ask again"))));
        }
        if matches!(*request.method(), Method::GET | Method::HEAD) && pending_answers(&request).is_full() {
            let problem = Problem::overloaded("too many answers wait for clients that do not read them; ask again");
            return Ok(request.into_response(refuse(problem)));
        }
    }
    match tokio::time::timeout(REQUEST_DEADLINE, next.call(request)).await {
        Ok(answer) => answer.map(ServiceResponse::map_into_left_body),
        // The handler is dropped, and with it whatever it waited for.
        Err(_) => {
            hub.iter().for_each(|hub| hub.request_timed_out());
            Err(Problem::overloaded("the answer took too long; ask again").into())
        }
    }
}

fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}

fn pending_answers(request: &ServiceRequest) -> PendingAnswers {
    request.app_data::<Data<PendingAnswers>>().map(|pending| (***pending).clone()).unwrap_or_default()
}

/// A preflight that CORS refused, which answers in plain text by itself.
fn cors_refusal(answer: &ServiceResponse<impl MessageBody>) -> Option<Problem> {
    let refused = answer.response().error()?.as_error::<CorsError>()?;
    Some(Problem::new(Code::Forbidden, refused.to_string()))
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
