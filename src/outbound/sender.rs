//! Sends one webhook request: dials only what the guard allows, signs twice, and has one deadline from name resolution
//! to the last byte of the response (contract §7).

use std::{error::Error as _, io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use hickory_resolver::TokioResolver;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, Uri,
    body::Incoming,
    header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use moka::sync::Cache;
use oriva_hub_actors::{
    model::TraceParent,
    ports::{Delivery, Report, Target, Verdict, WebhookSender},
    traces::{Span, SpanKind},
};
use serde_json::{Map, Value};
use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::{
    client::{NoAnswer, WebhookClient},
    guard::{Guard, literal_address},
    payload,
    resolver::{self, Forbidden, GuardedResolver, Unresolved},
    signature,
};

/// Bytes of a response's body that are read and kept.
const MAX_ANSWER_BYTES: usize = 10 * 1024;
/// Greatest number of response headers that are kept.
const MAX_HEADERS: usize = 50;
const MAX_HEADER_CHARACTERS: usize = 512;
/// Idle connections that are kept for one host.
const IDLE_PER_HOST: usize = 8;
/// How long an origin may have a kept connection after its last answer.
const KEPT_FOR: Duration = Duration::from_secs(60);
const AGENT: &str = concat!("oriva-hub/", env!("CARGO_PKG_VERSION"));

/// How long a body may take whose status has decided already.
const BODY: Duration = Duration::from_secs(1);
/// Threads that send.
const THREADS: usize = 2;
/// Origins that answered lately.
const ORIGINS: u64 = 10_000;

/// Sends deliveries over HTTP, on threads of its own: an endpoint that floods them holds up nobody who claims and records.
pub struct HttpSender {
    requests: Arc<Requests>,
    /// `None` while it is dropped.
    runtime: Option<Runtime>,
}

impl HttpSender {
    /// # Errors
    /// Where the TLS library, the resolver or the threads cannot be set up.
    pub fn new(guard: Guard, deadline: Duration, name_servers: &[SocketAddr]) -> io::Result<Self> {
        crate::crypto::install();
        let runtime =
            Builder::new_multi_thread().worker_threads(THREADS).thread_name("webhook-sender").enable_all().build()?;
        let names = resolver::names(name_servers).map_err(io::Error::other)?;
        let requests = Requests::new(guard, deadline, &names).map_err(io::Error::other)?;
        Ok(Self { requests: Arc::new(requests), runtime: Some(runtime) })
    }
}

#[async_trait]
impl WebhookSender for HttpSender {
    async fn send(&self, target: &Target, delivery: &Delivery) -> Report {
        let (requests, target, delivery) = (self.requests.clone(), target.clone(), delivery.clone());
        let Some(runtime) = &self.runtime else { return Report::failed("the hub is stopping") };
        // Aborted with whoever waits for it.
        let task = AbortOnDropHandle::new(runtime.spawn(async move { requests.send(&target, &delivery).await }));
        task.await.unwrap_or_else(|_| Report::failed("the request failed inside the hub"))
    }
}

impl Drop for HttpSender {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropped within an async context, where waiting for its threads is not allowed.
            runtime.shutdown_background();
        }
    }
}

/// Connections of one scheme: kept ones, and a new one for each request.
struct Clients {
    kept: WebhookClient,
    new: WebhookClient,
}

impl Clients {
    fn new(resolver: &GuardedResolver, tls: bool, deadline: Duration) -> Result<Self, rustls::Error> {
        let client = |kept| WebhookClient::new(resolver.clone(), tls, kept, deadline);
        Ok(Self { kept: client(IDLE_PER_HOST)?, new: client(0)? })
    }
}

struct Requests {
    guard: Guard,
    deadline: Duration,
    over_tls: Clients,
    /// For loopback only. It has connections of its own, so that none is used for the other kind.
    plain: Clients,
    /// Origins with a kept connection perhaps.
    answered: Cache<String, ()>,
}

impl Requests {
    fn new(guard: Guard, deadline: Duration, names: &TokioResolver) -> Result<Self, rustls::Error> {
        let (tls_guard, plain_guard) = (guard.clone(), guard.clone());
        let over_tls = GuardedResolver::new(names.clone(), move |address| tls_guard.permits(address));
        let plain = GuardedResolver::new(names.clone(), move |address| plain_guard.permits_plain(address));
        Ok(Self {
            guard,
            deadline,
            over_tls: Clients::new(&over_tls, true, deadline)?,
            plain: Clients::new(&plain, false, deadline)?,
            answered: Cache::builder().max_capacity(ORIGINS).time_to_live(KEPT_FOR).build(),
        })
    }

    /// The clients for a URL. An address in the URL is checked here, because no resolver is called for it.
    fn clients(&self, url: &Url) -> Result<&Clients, String> {
        let is_plain = url.scheme() == "http";
        if let Some(address) = literal_address(url) {
            let permitted = if is_plain { self.guard.permits_plain(address) } else { self.guard.permits(address) };
            if !permitted {
                return Err(Forbidden(address.to_string()).to_string());
            }
        }
        Ok(if is_plain { &self.plain } else { &self.over_tls })
    }

    fn too_late(&self) -> String {
        format!("no answer within {} s", self.deadline.as_secs())
    }

    /// The error message for the app: the phase, and the innermost cause, which says most, without the URL.
    fn cause(error: &NoAnswer) -> String {
        let NoAnswer::Failed(failed) = error else { return error.to_string() };
        let mut last: &dyn std::error::Error = failed;
        while let Some(source) = last.source() {
            if source.is::<Unresolved>() || source.is::<Forbidden>() {
                return source.to_string();
            }
            last = source;
        }
        let kind = if failed.is_connect() { "no connection: " } else { "" };
        match failed.source() {
            Some(_) => format!("{kind}{last}"),
            None => "the request failed".to_owned(),
        }
    }

    async fn attempt(
        &self,
        target: &Target,
        delivery: &Delivery,
        body: &str,
        trace: Option<TraceParent>,
        end: Instant,
    ) -> Result<Answer, String> {
        let url = Url::parse(&target.url).map_err(|_| "the URL is not valid".to_owned())?;
        let clients = self.clients(&url)?;
        let origin = url.origin().ascii_serialization();
        let headers = headers_of(target, delivery, body, trace);
        let address = Uri::try_from(url.as_str()).map_err(|_| "the URL is not valid".to_owned())?;
        let body = Bytes::copy_from_slice(body.as_bytes());
        let send = async |client: &WebhookClient| {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = address.clone();
            *request.headers_mut() = headers.clone();
            tokio::time::timeout_at(end, client.send(request)).await
        };
        // A retry dials anew: the connection that failed may have been a kept one, and the others are as old.
        let may_be_kept = delivery.attempt == 1 && self.answered.contains_key(&origin);
        let mut response = send(if may_be_kept { &clients.kept } else { &clients.new }).await;
        if may_be_kept && matches!(&response, Ok(Err(error @ NoAnswer::Failed(_))) if !error.is_connect()) {
            // The receiver closed the kept connection as it was used. It answered nothing, so this is no attempt yet.
            response = send(&clients.new).await;
        }
        let response = response.map_err(|_| self.too_late())?.map_err(|error| Self::cause(&error))?;
        self.answered.insert(origin, ());
        Ok(Answer::read(response, end.min(Instant::now() + BODY)).await)
    }

    async fn send(&self, target: &Target, delivery: &Delivery) -> Report {
        let parent = delivery.event.event().trace;
        let mut span = parent.map(|parent| Span::begin("webhook attempt", SpanKind::Client, Some(parent)));
        let trace = span.as_ref().and_then(Span::context);
        let payload = payload::body(&delivery.event, target.payload);
        let began = Instant::now();
        let answer = self.attempt(target, delivery, &payload, trace, began + self.deadline).await;
        let response_time = began.elapsed();
        let report = match answer {
            Ok(answer) => Report {
                verdict: answer.verdict(),
                status_code: Some(answer.status),
                response_time,
                response_body: Some(answer.body),
                response_headers: Some(answer.headers),
                error: answer.error,
                payload,
            },
            Err(error) => Report { response_time, payload, ..Report::failed(error) },
        };
        if let Some(span) = span.as_mut().filter(|span| span.is_recorded()) {
            describe(span, target, delivery, &report);
        }
        report
    }
}

/// Only the host of the URL: its path and query may contain secrets.
fn describe(span: &mut Span, target: &Target, delivery: &Delivery, report: &Report) {
    span.set("http.request.method", "POST");
    span.set("http.request.resend_count", i64::from(delivery.attempt.saturating_sub(1)));
    span.set("oriva.event_id", delivery.event.event().id.to_string());
    span.set("oriva.delivery_id", delivery.id.to_string());
    if let Some(host) = Url::parse(&target.url).ok().and_then(|url| url.host_str().map(str::to_owned)) {
        span.set("server.address", host);
    }
    if let Some(status) = report.status_code {
        span.set("http.response.status_code", i64::from(status));
    }
    if report.verdict != Verdict::Delivered {
        span.failed(report.error.clone().unwrap_or_default());
    }
}

/// The part of a response that is read.
struct Answer {
    status: u16,
    retry_after: Option<Duration>,
    headers: String,
    body: String,
    error: Option<String>,
}

impl Answer {
    /// Reads what arrives before the deadline, up to the limit. The status decides the outcome, whatever happens to the
    /// body.
    async fn read(response: Response<Incoming>, end: Instant) -> Self {
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let headers = headers(response.headers());
        let (mut body, mut bytes) = (response.into_body(), Vec::new());
        while bytes.len() < MAX_ANSWER_BYTES {
            match tokio::time::timeout_at(end, body.frame()).await {
                Ok(Some(Ok(frame))) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Ok(None | Some(Err(_))) | Err(_) => break,
            }
        }
        bytes.truncate(MAX_ANSWER_BYTES);
        let error = (!(200..300).contains(&status)).then(|| match status {
            301 | 302 | 303 | 307 | 308 => format!("answered {status}; redirects are not followed"),
            410 => "answered 410: it wants no more".to_owned(),
            _ => format!("answered {status}"),
        });
        Self { status, retry_after, headers, body: text(&bytes), error }
    }

    fn verdict(&self) -> Verdict {
        match self.status {
            200..300 => Verdict::Delivered,
            410 => Verdict::Gone,
            _ => Verdict::Failed { retry_after: self.retry_after },
        }
    }
}

/// Text for the databases: within the limit in bytes even if bytes had to be replaced, and without U+0000.
fn text(bytes: &[u8]) -> String {
    let mut text: String = String::from_utf8_lossy(bytes).chars().filter(|c| *c != '\0').collect();
    while text.len() > MAX_ANSWER_BYTES {
        text.pop();
    }
    text
}

/// Seconds, or a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = chrono::DateTime::parse_from_rfc2822(value).ok()?;
    (at.to_utc() - chrono::Utc::now()).to_std().ok()
}

fn headers(headers: &HeaderMap) -> String {
    let mut map = Map::new();
    for (name, value) in headers.iter().take(MAX_HEADERS) {
        let value = String::from_utf8_lossy(value.as_bytes());
        let value: String = value.chars().filter(|c| *c != '\0').take(MAX_HEADER_CHARACTERS).collect();
        map.insert(name.to_string(), Value::String(value));
    }
    Value::Object(map).to_string()
}

/// The headers of a request. Signatures are over its body and the time now.
fn headers_of(target: &Target, delivery: &Delivery, body: &str, trace: Option<TraceParent>) -> HeaderMap {
    let id = delivery.event.event().id.to_string();
    let timestamp = chrono::Utc::now().timestamp();
    let standard = signature::standard(&target.secrets, &id, timestamp, body.as_bytes());
    let mut pairs = vec![
        ("content-type", "application/json".to_owned()),
        ("user-agent", AGENT.to_owned()),
        ("x-oriva-event-id", id.clone()),
        ("x-oriva-event-type", delivery.event.full_type().to_owned()),
        ("x-oriva-delivery-id", delivery.id.to_string()),
        ("x-oriva-delivery-attempt", delivery.attempt.to_string()),
        ("webhook-id", id),
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-signature", standard),
    ];
    for (name, secret) in ["x-oriva-signature", "x-oriva-signature-previous"].into_iter().zip(&target.secrets) {
        pairs.push((name, signature::oriva(secret, body.as_bytes())));
    }
    pairs.extend(trace.map(|trace| ("traceparent", trace.to_string())));
    // All of these are visible ASCII.
    let values = pairs.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)));
    values.map(|(name, value)| (HeaderName::from_static(name), value)).collect()
}
