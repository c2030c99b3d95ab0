//! The id of a request: in its response, in its log lines, and in every error body.

use actix_web::http::header::{HeaderMap, HeaderName};
use uuid::Uuid;

pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: String;
}

/// The id of the request that this task works on. Empty outside of requests.
#[must_use]
pub(super) fn current() -> String {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Runs `work` under a request's id.
pub(super) async fn scope<F: Future>(id: String, work: F) -> F::Output {
    CURRENT.scope(id, work).await
}

/// The client's own id, if it is safe to write to a log. Otherwise a new one.
pub(super) fn choose(headers: &HeaderMap) -> String {
    let theirs = headers.get(&HEADER).and_then(|id| id.to_str().ok());
    let is_safe = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    theirs.filter(is_safe).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}
