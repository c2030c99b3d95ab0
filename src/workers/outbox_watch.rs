//! Measures how long the oldest delivery has been due.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use oriva_hub_actors::{metric_names, model::Timestamp};

use super::{Progress, Worker, WorkerError};
use crate::store::Store;

/// Measures how far behind deliveries are.
pub struct OutboxWatch {
    store: Arc<dyn Store>,
}

impl OutboxWatch {
    /// Reads `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

#[async_trait(?Send)]
impl Worker for OutboxWatch {
    fn name(&self) -> &'static str {
        "outbox_watch"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(15)
    }

    async fn run_once(&mut self) -> Result<Progress, WorkerError> {
        let oldest = self.store.oldest_due().await?;
        let age = oldest.map_or(0, |due| (Timestamp::now().unix_ms() - due.unix_ms()).max(0));
        metrics::gauge!(metric_names::OLDEST_DUE).set(age as f64 / 1000.0);
        Ok(Progress::Done)
    }
}
