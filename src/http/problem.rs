//! Errors on the wire: RFC 9457 problems, and the one table of error codes (contract §2).

use actix_web::{
    HttpResponse, HttpResponseBuilder, ResponseError,
    http::{StatusCode, header},
};
use oriva_hub_actors::model::{Invalid, NotificationId};
use serde::Serialize;
use utoipa::ToSchema;

use super::request_id;
use crate::{
    auth::AuthError,
    hub::HubError,
    limits::RateLimited,
    store::{FaultyField, ItemError, StoreError},
};

/// Prefix of the `type` of all problems.
const TYPE_BASE: &str = "https://oriva-hub.example/errors/";
/// `Retry-After` of 503, in seconds.
const RETRY_AFTER_SECONDS: u64 = 1;
/// After a refusal for the connection limit (contract §5).
const CONNECTION_RETRY_AFTER_SECONDS: u64 = 15;

/// An error code: slug, status, title.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ErrorCode)]
pub enum Code {
    /// A field broke a rule.
    ValidationFailed,
    /// The body is not JSON, or not an object.
    MalformedJson,
    /// No credential, or an unknown one.
    Unauthenticated,
    /// The token's time is over.
    TokenExpired,
    /// The credential does not open this.
    Forbidden,
    /// There is nothing at this address.
    NotFound,
    /// The route has no such method.
    MethodNotAllowed,
    /// It contradicts what is there.
    Conflict,
    /// The external id belongs to another notification.
    DuplicateExternalId,
    /// The notification's status does not change so.
    InvalidTransition,
    /// The key was used with another request.
    IdempotencyMismatch,
    /// The body is too large.
    PayloadTooLarge,
    /// The body did not come in time.
    RequestTimeout,
    /// The body is not declared as JSON.
    UnsupportedMediaType,
    /// The caller has used its requests of this window.
    RateLimited,
    /// The user holds as many sockets as allowed.
    ConnectionLimit,
    /// The hub cannot take this now.
    Overloaded,
    /// The hub failed.
    Internal,
}

impl Code {
    const fn row(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::ValidationFailed => ("validation_failed", 400, "Validation failed"),
            Self::MalformedJson => ("malformed_json", 400, "Malformed JSON"),
            Self::Unauthenticated => ("unauthenticated", 401, "Not authenticated"),
            Self::TokenExpired => ("token_expired", 401, "Token expired"),
            Self::Forbidden => ("forbidden", 403, "Forbidden"),
            Self::NotFound => ("not_found", 404, "Not found"),
            Self::MethodNotAllowed => ("method_not_allowed", 405, "Method not allowed"),
            Self::Conflict => ("conflict", 409, "Conflict"),
            Self::DuplicateExternalId => ("duplicate_external_id", 409, "Duplicate external id"),
            Self::InvalidTransition => ("invalid_transition", 400, "Invalid transition"),
            Self::IdempotencyMismatch => ("idempotency_mismatch", 422, "Idempotency key reused"),
            Self::PayloadTooLarge => ("payload_too_large", 413, "Payload too large"),
            Self::RequestTimeout => ("request_timeout", 408, "Request timeout"),
            Self::UnsupportedMediaType => ("unsupported_media_type", 415, "Unsupported media type"),
            Self::RateLimited => ("rate_limited", 429, "Too many requests"),
            Self::ConnectionLimit => ("connection_limit", 429, "Too many connections"),
            Self::Overloaded => ("overloaded", 503, "Overloaded"),
            Self::Internal => ("internal", 500, "Internal error"),
        }
    }

    /// The end of the URL in `type`.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// An error as the client sees it.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// The kind of fault.
    pub code: Code,
    /// What is wrong this time.
    pub detail: String,
    /// The fields that broke a rule.
    pub fields: Vec<FaultyField>,
    /// Seconds.
    pub retry_after: Option<u64>,
    /// The methods that a 405 allows.
    pub allow: Option<String>,
    /// The notification that has the external id.
    pub owner: Option<NotificationId>,
}

impl Problem {
    /// A fault without fields.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), fields: Vec::new(), retry_after: None, allow: None, owner: None }
    }

    /// All faulty fields at once.
    #[must_use]
    pub fn invalid(fields: Vec<FaultyField>) -> Self {
        let ItemError { error, details, .. } = ItemError::invalid(fields);
        Self { fields: details, ..Self::new(Code::ValidationFailed, error) }
    }

    /// 404 for a thing that is not there.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "there is nothing at this address")
    }

    /// 404 for an address that no route has. Says what may be meant.
    #[must_use]
    pub fn no_route(path: &str) -> Self {
        let detail = if path.ends_with("/events/stream/") {
            "there is no route at this address; the stream is at /api/v1/events/stream, without a slash at its end"
        } else if path.contains("socket.io") {
            "this is no Socket.IO server; open a plain WebSocket at /api/v1/events/stream"
        } else {
            "there is no route at this address; GET /docs shows all there are"
        };
        Self::new(Code::NotFound, detail)
    }

    /// 404 for an id in a path that breaks the rule of its type.
    #[must_use]
    pub fn malformed_id(name: &str, rule: &Invalid) -> Self {
        Self::new(Code::NotFound, format!("there is nothing at this address: {name} {rule}"))
    }

    /// `owner` is the notification that has the external id.
    #[must_use]
    pub fn duplicate_external_id(owner: NotificationId) -> Self {
        let ItemError { error, details, .. } = ItemError::duplicate_external_id(owner);
        Self { fields: details, owner: Some(owner), ..Self::new(Code::DuplicateExternalId, error) }
    }

    /// 503: the same request may succeed later.
    #[must_use]
    pub fn overloaded(detail: &str) -> Self {
        Self { retry_after: Some(RETRY_AFTER_SECONDS), ..Self::new(Code::Overloaded, detail) }
    }

    /// 429: the user or app holds as many connections as it may.
    #[must_use]
    pub fn connection_limit(limit: usize) -> Self {
        let detail = format!("{limit} connections are open already; come back slowly");
        Self { retry_after: Some(CONNECTION_RETRY_AFTER_SECONDS), ..Self::new(Code::ConnectionLimit, detail) }
    }

    /// 500. The cause goes to the log only.
    #[must_use]
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(request_id = %request_id::current(), error = cause, "request failed: see to the cause, or report it");
        Self::new(Code::Internal, "the hub failed; its log has the cause under this request id")
    }

    /// The response's body.
    #[must_use]
    pub fn body(&self) -> String {
        let (slug, status, title) = self.code.row();
        let body = ProblemBody {
            r#type: format!("{TYPE_BASE}{slug}"),
            title,
            status,
            detail: &self.detail,
            error: &self.detail,
            code: self.code,
            details: &self.fields,
            request_id: request_id::current(),
            notification_id: self.owner,
        };
        serde_json::to_string(&body).unwrap_or_default()
    }
}

/// An error (RFC 9457), with the additional fields of contract §2.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem, description = "An error (RFC 9457), with the additional fields of every error of the hub.")]
pub struct ProblemBody<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    /// The same as `detail`.
    error: &'a str,
    code: Code,
    /// All faulty fields.
    details: &'a [FaultyField],
    request_id: String,
    /// The notification that has the external id, where `code` is `duplicate_external_id`.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    notification_id: Option<NotificationId>,
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponseBuilder::new(self.status_code());
        response.content_type("application/problem+json");
        if let Some(seconds) = self.retry_after {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if self.code == Code::UnsupportedMediaType {
            // RFC 9110 §15.5.16: compression may have been the reason.
            response.insert_header((header::ACCEPT_ENCODING, "identity"));
        }
        if let Some(methods) = &self.allow {
            response.insert_header((header::ALLOW, methods.as_str()));
        }
        if self.status_code() == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, r#"Bearer realm="oriva-hub""#));
        }
        response.body(self.body())
    }
}

impl From<HubError> for Problem {
    fn from(error: HubError) -> Self {
        match error {
            HubError::NotFound => Self::not_found(),
            HubError::Forbidden => {
                Self::new(Code::Forbidden, "this credential does not open that: it is another app's or user's")
            }
            HubError::DuplicateExternalId(owner) => Self::duplicate_external_id(owner),
            HubError::InvalidTransition(error) => Self::new(Code::InvalidTransition, error.to_string()),
            HubError::Conflict(detail) => Self::new(Code::Conflict, detail),
            HubError::IdempotencyMismatch => {
                Self::new(Code::IdempotencyMismatch, "this Idempotency-Key was used with another request")
            }
            HubError::Overloaded => {
                Self::overloaded("the hub cannot take this now; send it again (an Idempotency-Key makes that safe)")
            }
            HubError::Store(cause) => Self::internal(&*cause),
            bug @ HubError::Bug(_) => Self::internal(&bug),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        HubError::from(error).into()
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Store(cause) => cause.into(),
            AuthError::Expired => Self::new(Code::TokenExpired, "the token has expired"),
            refused => Self::new(Code::Unauthenticated, refused.to_string()),
        }
    }
}

impl From<RateLimited> for Problem {
    fn from(RateLimited(status): RateLimited) -> Self {
        let detail = format!(
            "{} requests in {} seconds are allowed for {}",
            status.limit.requests,
            status.limit.window.as_secs(),
            status.class.as_str()
        );
        Self { retry_after: Some(status.reset_in.as_secs() + 1), ..Self::new(Code::RateLimited, detail) }
    }
}
