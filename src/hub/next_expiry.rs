//! Wakes the expiry worker when this node creates a notification that expires before the worker's next run.

use std::sync::atomic::{AtomicI64, Ordering};

use oriva_hub_actors::model::Timestamp;
use tokio::sync::Notify;

/// The moment until which the worker sleeps, and a way to wake it earlier.
#[derive(Default)]
pub struct NextExpiry {
    sleeps_until_ms: AtomicI64,
    earlier: Notify,
}

impl NextExpiry {
    /// The worker sleeps until `moment`.
    pub fn sleeps_until(&self, moment: Timestamp) {
        self.sleeps_until_ms.store(moment.unix_ms(), Ordering::SeqCst);
    }

    /// A notification expires at `moment`. Wakes the worker if it would sleep longer.
    pub fn bring_forward(&self, moment: Timestamp) {
        if moment.unix_ms() < self.sleeps_until_ms.load(Ordering::SeqCst) {
            self.earlier.notify_one();
        }
    }

    /// Completes when a notification expires before the worker's next run.
    pub async fn earlier(&self) {
        self.earlier.notified().await;
    }
}
