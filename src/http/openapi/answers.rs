//! Errors as the document describes them: each once, and by the sets in which routes give them.

use std::collections::BTreeMap;

use utoipa::{
    IntoResponses,
    openapi::{Content, Header, Object, Ref, RefOr, Response, ResponseBuilder, schema::Type},
};

use crate::http::problem::Code;

/// Name, codes, and the header that such an answer carries.
struct Error {
    name: &'static str,
    status: &'static str,
    codes: &'static [Code],
    header: Option<(&'static str, Type, &'static str)>,
    description: &'static str,
}

const RETRY_AFTER: Option<(&str, Type, &str)> = Some(("Retry-After", Type::Integer, "Seconds to wait"));

const INVALID: Error = Error {
    name: "Invalid",
    status: "400",
    codes: &[Code::ValidationFailed, Code::MalformedJson, Code::InvalidTransition],
    header: None,
    description: "The request is invalid. `details` names every faulty field",
};
const UNAUTHENTICATED: Error = Error {
    name: "Unauthenticated",
    status: "401",
    codes: &[Code::Unauthenticated, Code::TokenExpired],
    header: Some(("WWW-Authenticate", Type::String, "Bearer")),
    description: "No credential, an unknown or revoked one, an expired token, or an app that was disabled",
};
const FORBIDDEN: Error = Error {
    name: "Forbidden",
    status: "403",
    codes: &[Code::Forbidden],
    header: None,
    description: "The credential has no access to this",
};
const NOT_FOUND: Error = Error {
    name: "NotFound",
    status: "404",
    codes: &[Code::NotFound],
    header: None,
    description: "Nothing exists at this URL",
};
const CONFLICT: Error = Error {
    name: "Conflict",
    status: "409",
    codes: &[Code::Conflict, Code::DuplicateExternalId],
    header: None,
    description: "It exists already, the same request is still in progress, or other data refers to it",
};
const TOO_LARGE: Error = Error {
    name: "PayloadTooLarge",
    status: "413",
    codes: &[Code::PayloadTooLarge],
    header: None,
    description: "The body is larger than `server.max_body_bytes`",
};
const UNSUPPORTED: Error = Error {
    name: "UnsupportedMediaType",
    status: "415",
    codes: &[Code::UnsupportedMediaType],
    header: None,
    description: "The Content-Type is not JSON, or the body is compressed",
};
const MISMATCH: Error = Error {
    name: "IdempotencyMismatch",
    status: "422",
    codes: &[Code::IdempotencyMismatch],
    header: None,
    description: "The Idempotency-Key was used with another request",
};
const RATE_LIMITED: Error = Error {
    name: "RateLimited",
    status: "429",
    codes: &[Code::RateLimited, Code::ConnectionLimit],
    header: RETRY_AFTER,
    description: "The rate limit of the route's class is exceeded",
};
const INTERNAL: Error = Error {
    name: "Internal",
    status: "500",
    codes: &[Code::Internal],
    header: None,
    description: "The hub failed. Its log has the cause under the request id",
};
const OVERLOADED: Error = Error {
    name: "Overloaded",
    status: "503",
    codes: &[Code::Overloaded],
    header: RETRY_AFTER,
    description: "The hub is overloaded or stopping",
};

const ALL: [&Error; 11] = [
    &INVALID,
    &UNAUTHENTICATED,
    &FORBIDDEN,
    &NOT_FOUND,
    &CONFLICT,
    &TOO_LARGE,
    &UNSUPPORTED,
    &MISMATCH,
    &RATE_LIMITED,
    &INTERNAL,
    &OVERLOADED,
];

/// The document's reusable answers.
pub(super) fn errors() -> impl Iterator<Item = (String, RefOr<Response>)> {
    ALL.into_iter().map(|error| {
        let codes: Vec<_> = error.codes.iter().map(|code| format!("`{}`", code.slug())).collect();
        let body = Content::new(Some(Ref::from_schema_name("Problem")));
        let mut response = ResponseBuilder::new()
            .description(format!("{}. Codes: {}", error.description, codes.join(", ")))
            .content("application/problem+json", body)
            .build();
        if let Some((name, schema_type, description)) = &error.header {
            let mut header = Header::new(Object::with_type(schema_type.clone()));
            header.description = Some((*description).to_owned());
            response.headers.insert((*name).to_owned(), header.into());
        }
        (error.name.to_owned(), response.into())
    })
}

macro_rules! error_sets {
    ($($(#[$doc:meta])* $name:ident => [$($error:ident),*];)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                let reference = |error: &Error| (error.status.to_owned(), Ref::from_response_name(error.name).into());
                [$(&$error),*].into_iter().map(reference).collect()
            }
        }
    )*};
}
error_sets! {
    /// Of a route with an app in its path, or one for an inbox.
    Limited => [UNAUTHENTICATED, FORBIDDEN, NOT_FOUND, RATE_LIMITED, INTERNAL, OVERLOADED];
    /// Of a route for the operator.
    Operator => [UNAUTHENTICATED, FORBIDDEN, INTERNAL, OVERLOADED];
    /// Of a route that names something.
    Named => [NOT_FOUND];
    /// Of a route whose query or headers may be faulty.
    Checked => [INVALID];
    /// Of a route with a body, even one that may be left out.
    WithBody => [INVALID, TOO_LARGE, UNSUPPORTED];
    /// Of a route that makes what something else may hold already.
    Exclusive => [CONFLICT];
    /// Of a route that takes an Idempotency-Key.
    Idempotent => [CONFLICT, MISMATCH];
}
