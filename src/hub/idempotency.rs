//! Requests that may be sent twice (contract §4): under an `Idempotency-Key`, the first one is done and its answer is given
//! to the others.

use std::time::Duration;

use oriva_hub_actors::model::Timestamp;

use super::error::HubError;
use crate::store::{IdempotencyClaim, KeyedOutcome};

/// How long an answer is kept for its key.
const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// An `Idempotency-Key`, and the hash of the request that it is sent with.
#[derive(Debug, Clone)]
pub struct Idempotency {
    /// The key.
    pub key: String,
    /// SHA-256 of route and body.
    pub request_hash: [u8; 32],
}

/// The result of a request that may have been sent before.
#[derive(Debug)]
pub struct Written<T> {
    /// The result of the first request.
    pub result: T,
    /// Whether an earlier request under the same key did it.
    pub replayed: bool,
}

impl Idempotency {
    pub(super) fn into_claim(self) -> IdempotencyClaim {
        IdempotencyClaim {
            key: self.key,
            request_hash: self.request_hash,
            expires_at: Timestamp::from(Timestamp::now().as_datetime() + KEPT_FOR),
        }
    }
}

impl<T> Written<T> {
    /// # Errors
    /// [`HubError::IdempotencyMismatch`].
    pub(super) fn from_once(once: KeyedOutcome<T>) -> Result<Self, HubError> {
        match once {
            KeyedOutcome::Done(result) => Ok(Self { result, replayed: false }),
            KeyedOutcome::Replayed(result) => Ok(Self { result, replayed: true }),
            KeyedOutcome::Mismatch => Err(HubError::IdempotencyMismatch),
        }
    }
}
