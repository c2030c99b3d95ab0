//! Writes `delivered_at` of notifications that were sent to sockets, many at a time.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Progress, Worker, WorkerError};
use crate::{hub::ReceiptBuffer, store::Store};

/// Rows of one run, so that no lock lasts long.
const BATCH: usize = 1000;

/// Writes when notifications were first sent to a socket.
pub struct DeliveryReceiptWriter {
    store: Arc<dyn Store>,
    receipts: Arc<ReceiptBuffer>,
}

impl DeliveryReceiptWriter {
    /// Writes what `receipts` collects.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, receipts: Arc<ReceiptBuffer>) -> Self {
        Self { store, receipts }
    }
}

#[async_trait(?Send)]
impl Worker for DeliveryReceiptWriter {
    fn name(&self) -> &'static str {
        "delivery_receipts"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn run_once(&mut self) -> Result<Progress, WorkerError> {
        let receipts = self.receipts.take(BATCH);
        if receipts.is_empty() {
            return Ok(Progress::Done);
        }
        if let Err(error) = self.store.record_receipts(&receipts).await {
            self.receipts.put_back(receipts);
            return Err(error.into());
        }
        Ok(if receipts.len() == BATCH { Progress::More } else { Progress::Done })
    }
}
