//! Why the hub did not do what it was asked. Without HTTP: `http/problem.rs` maps it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use oriva_hub_actors::model::NotificationId;

use crate::store::{ChangeError, InvalidTransition, StoreError};

/// Why a call of the hub failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HubError {
    /// There is no such thing, or not for this caller.
    #[error("no such thing")]
    NotFound,
    /// It exists, but belongs to another app or user.
    #[error("not the caller's")]
    Forbidden,
    /// It contradicts what is there; the text says what.
    #[error("{0}")]
    Conflict(String),
    /// The notification that has the external id.
    #[error("external id is another notification's")]
    DuplicateExternalId(NotificationId),
    /// The notification's status does not change so.
    #[error(transparent)]
    InvalidTransition(#[from] InvalidTransition),
    /// The idempotency key was used with another request.
    #[error("idempotency key was used with another body")]
    IdempotencyMismatch,
    /// The writer's queue is full, or the database is down.
    #[error("overloaded")]
    Overloaded,
    /// The hub broke a rule of its own.
    #[error("{0}")]
    Bug(&'static str),
    /// The store failed in a way that no repeat mends.
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
            StoreError::Unavailable(..) => {
                if is_first_of_its_second() {
                    tracing::warn!(error = &error as &dyn std::error::Error, "store unavailable");
                }
                Self::Overloaded
            }
            StoreError::Contended | StoreError::LostCommits => Self::Overloaded,
            _ => Self::Store(Arc::new(error)),
        }
    }
}

/// During an outage every request fails alike: one line a second is enough.
fn is_first_of_its_second() -> bool {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let (now, mut last) = (Instant::now(), LAST.lock().unwrap_or_else(PoisonError::into_inner));
    let is_first = last.is_none_or(|last| now - last >= Duration::from_secs(1));
    if is_first {
        *last = Some(now);
    }
    is_first
}
