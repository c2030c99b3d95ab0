//! Why the hub did not do what it was asked. Knows no HTTP: `http/problem.rs` maps it.

use std::sync::Arc;

use oriva_hub_actors::model::NotificationId;

use crate::store::{ChangeError, InvalidTransition, StoreError};

#[derive(Debug, Clone, thiserror::Error)]
pub enum HubError {
    #[error("no such thing")]
    NotFound,
    /// It is there, but not the caller's.
    #[error("not the caller's")]
    Forbidden,
    #[error("{0}")]
    Conflict(String),
    /// The external id is this notification's.
    #[error("external id is another notification's")]
    DuplicateExternalId(NotificationId),
    #[error(transparent)]
    InvalidTransition(#[from] InvalidTransition),
    /// An idempotency key that stands for another request.
    #[error("idempotency key was used with another body")]
    IdempotencyMismatch,
    /// More is waiting than the hub can take, or the database is away.
    #[error("overloaded")]
    Overloaded,
    #[error("store failed")]
    Store(#[source] Arc<StoreError>),
}

impl From<ChangeError> for HubError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::NotFound => Self::NotFound,
            ChangeError::NotInScope => Self::Forbidden,
            ChangeError::Invalid(error) => Self::InvalidTransition(error),
        }
    }
}

impl From<StoreError> for HubError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(cause) => {
                tracing::warn!(%cause, "store unavailable");
                Self::Overloaded
            }
            StoreError::Contended => Self::Overloaded,
            _ => Self::Store(Arc::new(error)),
        }
    }
}
