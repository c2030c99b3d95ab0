//! Deletes idempotency keys after 24 hours. They have no effect from then on, even if this never runs.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use oriva_hub_actors::model::Timestamp;

use super::{Progress, Worker, WorkerError};
use crate::store::Store;

/// Rows of one run, so that no lock lasts long.
const BATCH: u32 = 1000;

/// Deletes idempotency keys whose time is over.
pub struct IdempotencyPurge {
    store: Arc<dyn Store>,
}

impl IdempotencyPurge {
    /// Works on `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

#[async_trait(?Send)]
impl Worker for IdempotencyPurge {
    fn name(&self) -> &'static str {
        "idempotency_purge"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60 * 60)
    }

    async fn run_once(&mut self) -> Result<Progress, WorkerError> {
        let deleted = self.store.purge_idempotency_keys(Timestamp::now(), BATCH).await?;
        Ok(if deleted == u64::from(BATCH) { Progress::More } else { Progress::Done })
    }
}
