//! Publishing events and looking them up (contract §4).

use super::{
    core::Hub,
    error::HubError,
    idempotency::{Idempotency, Written},
};
use crate::{
    auth::KeyHolder,
    store::{
        BatchItem, EventFilter, EventPage, EventReceipt, EventReceipts, NewEvent, Origin, Publish, PublishBatch,
        TOTAL_CAP,
    },
};

/// Greatest number of items in a batch request.
pub const MAX_BATCH: usize = 1000;

/// A page of events, with the total.
#[derive(Debug)]
pub struct Listing {
    /// The events.
    pub page: EventPage,
    /// How many there are over all pages, up to a cap.
    pub total: u64,
    /// Whether there may be more than `total`.
    pub total_is_capped: bool,
}

impl Hub {
    /// Publishes one event. When this returns, the event is durable.
    ///
    /// # Errors
    /// [`HubError::Conflict`] while another request under the same idempotency key is in progress,
    /// [`HubError::IdempotencyMismatch`] if the key was used with another request, [`HubError::Overloaded`] if the
    /// caller must try again.
    pub async fn publish(
        &self,
        caller: &KeyHolder,
        event: NewEvent,
        origin: Origin,
        idempotency: Option<Idempotency>,
    ) -> Result<Written<EventReceipt>, HubError> {
        let publish = Publish { event };
        Written::from_once(self.writer.write_once(&caller.app.id, origin, publish, idempotency).await?)
    }

    /// Publishes the valid items of a batch in one transaction.
    ///
    /// # Errors
    /// As [`Hub::publish`].
    pub async fn publish_batch(
        &self,
        caller: &KeyHolder,
        items: Vec<BatchItem<NewEvent>>,
        origin: Origin,
        idempotency: Option<Idempotency>,
    ) -> Result<Written<EventReceipts>, HubError> {
        let publish = PublishBatch { items };
        Written::from_once(self.writer.write_once(&caller.app.id, origin, publish, idempotency).await?)
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
