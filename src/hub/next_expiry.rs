//! When the next notification of this node's making is over, so that the worker need not look before.

use std::sync::atomic::{AtomicI64, Ordering};

use oriva_hub_actors::model::Timestamp;
use tokio::sync::Notify;

/// The moment the worker sleeps until, and a way to wake it for an earlier one.
#[derive(Default)]
pub struct NextExpiry {
    sleeps_until_ms: AtomicI64,
    earlier: Notify,
}

impl NextExpiry {
    /// Notes when the worker will look again by itself.
    pub fn sleeps_until(&self, moment: Timestamp) {
        self.sleeps_until_ms.store(moment.unix_ms(), Ordering::SeqCst);
    }

    /// Something is over at `moment`: wakes the worker where it would sleep longer.
    pub fn bring_forward(&self, moment: Timestamp) {
        if moment.unix_ms() < self.sleeps_until_ms.load(Ordering::SeqCst) {
            self.earlier.notify_one();
        }
    }

    /// Completes when something is over before the worker would look.
    pub async fn earlier(&self) {
        self.earlier.notified().await;
    }
}
