//! Implements the realtime core's event history with the store.

use std::sync::Arc;

use async_trait::async_trait;
use oriva_hub_actors::{
    model::{Offset, StreamKey},
    ports::{EventHistory, Page, Unavailable},
};
use tokio::sync::Semaphore;

use crate::store::{Store, StoreError, within_deadline};

/// Greatest number of pages read at once. A storm of reconnects must leave database connections for publishing.
const AT_ONCE: usize = 4;

/// Reads pages, a few at a time.
pub struct StoreHistory {
    store: Arc<dyn Store>,
    turns: Semaphore,
}

impl StoreHistory {
    /// Reads from this store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, turns: Semaphore::new(AT_ONCE) }
    }

    async fn ask<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, Unavailable> {
        let _turn = self.turns.acquire().await.map_err(|_| Unavailable)?;
        within_deadline(&*self.store, question).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "event history unavailable");
            Unavailable
        })
    }
}

#[async_trait]
impl EventHistory for StoreHistory {
    async fn heads(&self, streams: &[StreamKey]) -> Result<Vec<Offset>, Unavailable> {
        self.ask(self.store.heads(streams)).await
    }

    async fn page(&self, stream: &StreamKey, after: Offset, limit: usize) -> Result<Page, Unavailable> {
        self.ask(self.store.page(stream, after, limit)).await
    }
}
