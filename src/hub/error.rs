//! Why the hub did not do what it was asked. Knows no HTTP: `http/problem.rs` maps it.

use std::sync::Arc;

use crate::store::StoreError;

/// A field that broke its rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    /// A sentence that begins with the field's name.
    pub message: String,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum HubError {
    #[error("invalid input")]
    Invalid(Vec<Field>),
    #[error("no such thing")]
    NotFound,
    #[error("{0}")]
    Conflict(String),
    /// An idempotency key that stands for another request.
    #[error("idempotency key was used with another body")]
    IdempotencyMismatch,
    /// More is waiting than the hub can take, or the database is away.
    #[error("overloaded")]
    Overloaded,
    #[error("store failed")]
    Store(#[source] Arc<StoreError>),
}

impl From<StoreError> for HubError {
    fn from(error: StoreError) -> Self {
        if let StoreError::Unavailable(cause) = &error {
            tracing::warn!(%cause, "store unavailable");
            return Self::Overloaded;
        }
        Self::Store(Arc::new(error))
    }
}
