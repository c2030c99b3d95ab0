//! Collects which notifications were sent to sockets, until a worker writes them to the store. So no frame costs a
//! write.

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

/// Greatest number of receipts in memory. Further ones are dropped.
const REMEMBERED: usize = 100_000;

/// The first moment at which each notification was sent to a socket of its user.
#[derive(Default)]
pub struct ReceiptBuffer(Mutex<HashMap<NotificationId, DeliveryReceipt>>);

impl ReceiptBuffer {
    /// Takes at most `limit` receipts to be written.
    #[must_use]
    pub fn take(&self, limit: usize) -> Vec<DeliveryReceipt> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ids: Vec<NotificationId> = all.keys().copied().take(limit).collect();
        ids.into_iter().filter_map(|id| all.remove(&id)).collect()
    }

    /// Puts receipts back that could not be written.
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
