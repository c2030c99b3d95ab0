//! Which notifications sockets were handed, kept until a worker writes it down: no write a frame.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use oriva_hub_actors::{
    model::{NotificationId, Timestamp},
    ports::DeliveryReceipts,
    protocol::PublishedEvent,
};

use crate::store::DeliveryReceipt;

/// Notifications remembered; past that the moments of further ones are not noted.
const REMEMBERED: usize = 100_000;

/// The first moments at which notifications were handed to a socket of their user.
#[derive(Default)]
pub struct ReceiptBuffer(Mutex<HashMap<NotificationId, DeliveryReceipt>>);

impl ReceiptBuffer {
    /// Takes what there is to write down, at most `limit`.
    #[must_use]
    pub fn take(&self, limit: usize) -> Vec<DeliveryReceipt> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ids: Vec<NotificationId> = all.keys().copied().take(limit).collect();
        ids.into_iter().filter_map(|id| all.remove(&id)).collect()
    }

    /// Puts back what could not be written down.
    pub fn put_back(&self, receipts: Vec<DeliveryReceipt>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for one in receipts {
            all.insert(one.id, one);
        }
    }
}

impl DeliveryReceipts for ReceiptBuffer {
    fn pushed(&self, event: &PublishedEvent) {
        let event = event.event();
        let (Ok(id), Some(user_id)) = (event.entity_id.parse(), event.user_id.clone()) else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < REMEMBERED {
            let id = NotificationId(id);
            all.entry(id).or_insert_with(|| DeliveryReceipt {
                id,
                app_id: event.app_id.clone(),
                user_id,
                at: Timestamp::now(),
            });
        }
    }
}
