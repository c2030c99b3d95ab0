//! Sends one webhook request: dials only what the guard allows, signs twice, and has one deadline from name resolution
//! to the last byte of the response (contract §7).

use std::{error::Error as _, time::Duration};

use async_trait::async_trait;
use oriva_hub_actors::{
    model::TraceParent,
    ports::{Delivery, Report, Target, Verdict, WebhookSender},
    traces::{Span, SpanKind},
};
use reqwest::{
    Client, Response,
    header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT},
    redirect::Policy,
};
use serde_json::{Map, Value};
use tokio::time::Instant;
use url::Url;

use super::{
    guard::{Guard, literal_address},
    payload,
    resolver::{Forbidden, GuardedResolver},
    signature,
};

/// Bytes of a response's body that are read and kept.
const MAX_ANSWER_BYTES: usize = 10 * 1024;
/// Greatest number of response headers that are kept.
const MAX_HEADERS: usize = 50;
const MAX_HEADER_CHARACTERS: usize = 512;
/// Idle connections that are kept for one host.
const IDLE_PER_HOST: usize = 8;
const IDLE_FOR: Duration = Duration::from_secs(60);
const AGENT: &str = concat!("oriva-hub/", env!("CARGO_PKG_VERSION"));

/// Sends deliveries over HTTP.
pub struct HttpSender {
    guard: Guard,
    deadline: Duration,
    over_tls: Client,
    /// For loopback only. It has connections of its own, so that none is used for the other kind.
    plain: Client,
}

impl HttpSender {
    /// # Errors
    /// Where the TLS library cannot be set up.
    pub fn new(guard: Guard, deadline: Duration) -> Result<Self, reqwest::Error> {
        crate::crypto::install();
        let client = |resolver| {
            Client::builder()
                .dns_resolver(resolver)
                .redirect(Policy::none())
                .no_proxy()
                .timeout(deadline)
                .pool_max_idle_per_host(IDLE_PER_HOST)
                .pool_idle_timeout(IDLE_FOR)
        };
        let (tls_guard, plain_guard) = (guard.clone(), guard.clone());
        let over_tls = GuardedResolver::new(move |address| tls_guard.permits(address));
        let plain = GuardedResolver::new(move |address| plain_guard.permits_plain(address));
        Ok(Self {
            guard,
            deadline,
            over_tls: client(over_tls).https_only(true).build()?,
            plain: client(plain).build()?,
        })
    }

    /// The client for a URL. An address in the URL is checked here, because no resolver is called for it.
    fn client(&self, url: &Url) -> Result<&Client, String> {
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

    async fn attempt(
        &self,
        target: &Target,
        delivery: &Delivery,
        body: &str,
        trace: Option<TraceParent>,
        end: Instant,
    ) -> Result<Answer, String> {
        let url = Url::parse(&target.url).map_err(|_| "the URL is not valid".to_owned())?;
        let client = self.client(&url)?;
        let id = delivery.event.event().id.to_string();
        let timestamp = chrono::Utc::now().timestamp();
        let mut request = client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .header("x-oriva-event-id", &id)
            .header("x-oriva-event-type", delivery.event.full_type())
            .header("x-oriva-delivery-id", delivery.id.to_string())
            .header("x-oriva-delivery-attempt", delivery.attempt)
            .header("webhook-id", &id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature::standard(&target.secrets, &id, timestamp, body.as_bytes()));
        for (name, secret) in ["x-oriva-signature", "x-oriva-signature-previous"].into_iter().zip(&target.secrets) {
            request = request.header(name, signature::oriva(secret, body.as_bytes()));
        }
        if let Some(trace) = trace {
            request = request.header("traceparent", trace.to_string());
        }
        let response = tokio::time::timeout_at(end, request.body(body.to_owned()).send()).await;
        let response = response.map_err(|_| self.too_late())?.map_err(|error| cause(&error))?;
        Ok(Answer::read(response, end).await)
    }
}

#[async_trait]
impl WebhookSender for HttpSender {
    async fn send(&self, target: &Target, delivery: &Delivery) -> Report {
        let parent = delivery.event.event().trace;
        let mut span = parent.map(|parent| Span::begin("webhook attempt", SpanKind::Client, Some(parent)));
        let trace = span.as_ref().and_then(Span::context);
        let payload = payload::body(&delivery.event);
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
            Err(error) => Report {
                verdict: Verdict::Failed { retry_after: None },
                status_code: None,
                response_time,
                response_body: None,
                response_headers: None,
                error: Some(error),
                payload,
            },
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
    async fn read(mut response: Response, end: Instant) -> Self {
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let headers = headers(response.headers());
        let mut bytes = Vec::new();
        while bytes.len() < MAX_ANSWER_BYTES {
            match tokio::time::timeout_at(end, response.chunk()).await {
                Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
                Ok(Ok(None) | Err(_)) | Err(_) => break,
            }
        }
        bytes.truncate(MAX_ANSWER_BYTES);
        let error = (!(200..300).contains(&status)).then(|| match status {
            300..400 => format!("answered {status}; redirects are not followed"),
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

/// The error message for the app: the innermost cause, which says most, without the URL.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let kind = if error.is_connect() { "no connection: " } else { "" };
    match error.source() {
        Some(_) => format!("{kind}{last}"),
        None => "the request failed".to_owned(),
    }
}
