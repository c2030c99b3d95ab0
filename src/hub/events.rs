//! Publishing events and looking them up (contract §4).

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use oriva_hub_actors::model::{AppId, Timestamp};

use super::{Hub, HubError};
use crate::{
    auth::KeyHolder,
    store::{Appended, EventFilter, EventPage, IdempotencyClaim, NewEvent, Receipt, Submission, TOTAL_CAP},
};

/// Events of one batch.
pub const MAX_BATCH: usize = 1000;
/// How long an answer is kept for its idempotency key.
const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// An `Idempotency-Key`, and SHA-256 of what was asked under it.
#[derive(Debug, Clone)]
pub struct Idempotency {
    pub key: String,
    pub request_hash: [u8; 32],
}

/// An item of a batch: an event, or its error as JSON.
#[derive(Debug)]
pub enum BatchItem {
    Good(Box<NewEvent>),
    Bad(String),
}

/// An answer, ready to be sent.
#[derive(Debug)]
pub struct Written {
    /// JSON.
    pub answer: String,
    /// Whether it was made by an earlier request under the same key.
    pub replayed: bool,
}

/// A page of events and what is said beside it.
#[derive(Debug)]
pub struct Listing {
    pub page: EventPage,
    pub total: u64,
    pub total_is_capped: bool,
}

/// Keys under which a request is being worked on.
#[derive(Default)]
pub(super) struct InFlight(Mutex<HashSet<(AppId, String)>>);

struct Working<'a> {
    all: &'a InFlight,
    this: (AppId, String),
}

impl InFlight {
    fn begin(&self, app: &AppId, key: &str) -> Option<Working<'_>> {
        let this = (app.clone(), key.to_owned());
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(this.clone());
        is_new.then(|| Working { all: self, this })
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.this);
    }
}

impl Hub {
    /// Publishes one event. When it returns, the event is durable.
    ///
    /// # Errors
    /// [`HubError::Conflict`] while the same idempotency key is being worked on, [`HubError::IdempotencyMismatch`]
    /// where it stands for another request, [`HubError::Overloaded`] where it is to be sent again.
    pub async fn publish(
        &self,
        caller: &KeyHolder,
        event: NewEvent,
        idempotency: Option<Idempotency>,
    ) -> Result<Written, HubError> {
        self.write(caller, vec![event], Receipt::One, idempotency).await
    }

    /// Publishes the good items of a batch in one transaction.
    ///
    /// # Errors
    /// As [`Hub::publish`].
    pub async fn publish_batch(
        &self,
        caller: &KeyHolder,
        items: Vec<BatchItem>,
        idempotency: Option<Idempotency>,
    ) -> Result<Written, HubError> {
        let mut events = Vec::with_capacity(items.len());
        let mut slots = Vec::with_capacity(items.len());
        for item in items {
            match item {
                BatchItem::Good(event) => {
                    events.push(*event);
                    slots.push(None);
                }
                BatchItem::Bad(error) => slots.push(Some(error)),
            }
        }
        self.write(caller, events, Receipt::Batch(slots), idempotency).await
    }

    async fn write(
        &self,
        caller: &KeyHolder,
        events: Vec<NewEvent>,
        receipt: Receipt,
        idempotency: Option<Idempotency>,
    ) -> Result<Written, HubError> {
        let app = &caller.app.id;
        let _working = match &idempotency {
            Some(Idempotency { key, .. }) => Some(self.in_flight.begin(app, key).ok_or_else(|| {
                HubError::Conflict("a request with this Idempotency-Key is being worked on".to_owned())
            })?),
            None => None,
        };
        let claim = idempotency.map(|Idempotency { key, request_hash }| IdempotencyClaim {
            key,
            request_hash,
            expires_at: Timestamp::from(Timestamp::now().as_datetime() + KEPT_FOR),
        });
        let from_platform = caller.app.is_platform;
        let submission = Submission { app_id: app.clone(), from_platform, events, receipt, claim };
        match self.writer.write(submission).await? {
            Appended::Written { answer, events } => {
                tracing::debug!(app_id = %app, count = events.len(), "events published");
                Ok(Written { answer, replayed: false })
            }
            Appended::Replayed { answer } => Ok(Written { answer, replayed: true }),
            Appended::Mismatch => Err(HubError::IdempotencyMismatch),
        }
    }

    /// An app's own events, newest first.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn events(&self, caller: &KeyHolder, filter: &EventFilter) -> Result<Listing, HubError> {
        let page = self.store.events(&caller.app.id, filter).await?;
        let total = page.total.min(TOTAL_CAP);
        Ok(Listing { total_is_capped: page.total > TOTAL_CAP, total, page })
    }
}
