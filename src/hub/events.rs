//! Publishing events and looking them up (contract §4).

use super::{
    core::Hub,
    error::HubError,
    idempotency::{Idempotency, Written},
};
use crate::{
    auth::KeyHolder,
    store::{EventFilter, EventPage, NewEvent, Origin, Receipt, TOTAL_CAP, Work},
};

/// Events of one batch.
pub const MAX_BATCH: usize = 1000;
/// An item of a batch: an event, or its error as JSON.
#[derive(Debug)]
pub enum BatchItem {
    Good(Box<NewEvent>),
    Bad(String),
}

/// A page of events and what is said beside it.
#[derive(Debug)]
pub struct Listing {
    pub page: EventPage,
    pub total: u64,
    pub total_is_capped: bool,
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
        origin: Origin,
        idempotency: Option<Idempotency>,
    ) -> Result<Written, HubError> {
        let work = Work::Publish { events: vec![event], receipt: Receipt::One };
        self.write(&caller.app.id, origin, work, idempotency).await
    }

    /// Publishes the good items of a batch in one transaction.
    ///
    /// # Errors
    /// As [`Hub::publish`].
    pub async fn publish_batch(
        &self,
        caller: &KeyHolder,
        items: Vec<BatchItem>,
        origin: Origin,
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
        let work = Work::Publish { events, receipt: Receipt::Batch(slots) };
        self.write(&caller.app.id, origin, work, idempotency).await
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
