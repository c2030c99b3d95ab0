//! Requests that may be sent twice: an `Idempotency-Key` has its first answer given again (contract §4).

use std::time::Duration;

use oriva_hub_actors::model::{AppId, Timestamp};

use super::{core::Hub, error::HubError};
use crate::store::{IdempotencyClaim, Origin, Outcome, Submission, Work};

/// How long an answer is kept for its key.
const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// An `Idempotency-Key`, and SHA-256 of what was asked under it.
#[derive(Debug, Clone)]
pub struct Idempotency {
    pub key: String,
    pub request_hash: [u8; 32],
}

/// An answer, ready to be sent.
#[derive(Debug)]
pub struct Written {
    /// JSON.
    pub answer: String,
    /// Whether it was made by an earlier request under the same key.
    pub replayed: bool,
}

impl Hub {
    /// Writes what is to be published or created, once for its key.
    ///
    /// # Errors
    /// [`HubError::Conflict`] while the same key is being worked on, [`HubError::IdempotencyMismatch`] where it stands
    /// for another request, [`HubError::DuplicateExternalId`], [`HubError::Overloaded`] where it is to be sent again.
    pub(super) async fn write(
        &self,
        app: &AppId,
        origin: Origin,
        work: Work,
        idempotency: Option<Idempotency>,
    ) -> Result<Written, HubError> {
        let _working = match &idempotency {
            Some(Idempotency { key, .. }) => Some(self.in_flight_keys.begin(app, key).ok_or_else(|| {
                HubError::Conflict("a request with this Idempotency-Key is being worked on".to_owned())
            })?),
            None => None,
        };
        let claim = idempotency.map(|Idempotency { key, request_hash }| IdempotencyClaim {
            key,
            request_hash,
            expires_at: Timestamp::from(Timestamp::now().as_datetime() + KEPT_FOR),
        });
        let appended = self.writer.write(Submission { app_id: app.clone(), origin, work, claim }).await?;
        match appended.outcome {
            Outcome::Written { answer } => {
                tracing::debug!(app_id = %app, count = appended.events.len(), "written");
                Ok(Written { answer, replayed: false })
            }
            Outcome::Replayed { answer } => Ok(Written { answer, replayed: true }),
            Outcome::Mismatch => Err(HubError::IdempotencyMismatch),
            Outcome::Duplicate(owner) => Err(HubError::DuplicateExternalId(owner)),
            Outcome::Changed(_) | Outcome::Done(_) | Outcome::Rejected(_) => Err(HubError::Overloaded),
        }
    }
}
