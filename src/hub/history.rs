//! Implements the realtime core's event history with the store. What many sessions ask for at once, such as the sockets
//! of a node that died, is read together: a query for each would take as many round trips as there are sockets.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use oriva_hub_actors::{
    model::{Offset, StreamKey},
    ports::{EventHistory, Page, PageLimit, Unavailable},
};
use tokio::sync::{Semaphore, oneshot};

use crate::store::{PageRequest, Store, StoreError, within_deadline};

/// Queries at once. A storm of reconnects must leave database connections for publishing.
const QUERIES_AT_ONCE: usize = 4;
/// Pages of one query. With a page's own bound it bounds the memory that queries take.
const PAGES_PER_QUERY: usize = 32;

/// A session that waits for a page. If it ends, the page is not read.
struct Waiting {
    request: PageRequest,
    answer: oneshot::Sender<Result<Page, Unavailable>>,
}

/// Reads heads and pages, a few queries at a time.
pub struct StoreHistory {
    store: Arc<dyn Store>,
    limit: PageLimit,
    turns: Semaphore,
    waiting: Mutex<VecDeque<Waiting>>,
}

impl StoreHistory {
    /// Reads from this store. `limit` bounds each page.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, limit: PageLimit) -> Self {
        Self { store, limit, turns: Semaphore::new(QUERIES_AT_ONCE), waiting: Mutex::default() }
    }

    async fn ask<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, Unavailable> {
        within_deadline(&*self.store, question).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "event history unavailable");
            Unavailable
        })
    }

    /// Reads the pages that were asked for first, and hands them out.
    async fn read_next(&self) {
        let batch = self.next_batch();
        let mut requests: Vec<PageRequest> = Vec::with_capacity(batch.len());
        for Waiting { request, .. } in &batch {
            if !requests.contains(request) {
                requests.push(request.clone());
            }
        }
        if requests.is_empty() {
            return;
        }
        let pages = self.ask(self.store.pages(&requests, self.limit)).await;
        for Waiting { request, answer } in batch {
            let place = requests.iter().position(|asked| *asked == request);
            let page = pages.as_ref().map_err(|error| *error);
            let page = page.and_then(|pages| place.and_then(|place| pages.get(place)).ok_or(Unavailable));
            let _ = answer.send(page.cloned());
        }
    }

    fn next_batch(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|one| !one.answer.is_closed());
        let count = waiting.len().min(PAGES_PER_QUERY);
        waiting.drain(..count).collect()
    }
}

#[async_trait]
impl EventHistory for StoreHistory {
    async fn heads(&self, streams: &[StreamKey]) -> Result<Vec<Offset>, Unavailable> {
        let _turn = self.turns.acquire().await.map_err(|_| Unavailable)?;
        self.ask(self.store.heads(streams)).await
    }

    /// Whoever gets a turn reads for all that wait; so nobody has to be there who reads.
    async fn page(&self, stream: &StreamKey, after: Offset) -> Result<Page, Unavailable> {
        loop {
            let (answer, mut answered) = oneshot::channel();
            let request = PageRequest { stream: stream.clone(), after };
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(Waiting { request, answer });
            loop {
                tokio::select! {
                    biased;
                    page = &mut answered => match page {
                        Ok(page) => return page,
                        // Who read for this one as well has gone, in the middle of it.
                        Err(_) => break,
                    },
                    turn = self.turns.acquire() => {
                        let _turn = turn.map_err(|_| Unavailable)?;
                        self.read_next().await;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use oriva_hub_actors::model::UserId;

    use super::*;

    fn stream(n: usize) -> StreamKey {
        StreamKey::User(UserId::parse(&format!("u{n}")).expect("a user id"))
    }

    #[tokio::test]
    async fn many_pages_are_read_by_few_queries_and_those_nobody_waits_for_by_none() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let url = format!("sqlite://{}/hub.db", folder.path().display());
        let store = crate::store::sqlite::SqliteStore::open(&url, 1).await.expect("a store");
        store.migrate().await.expect("migrate");
        let limit = PageLimit { events: 10, bytes: 1000 };
        let history = Arc::new(StoreHistory::new(Arc::new(store), limit));
        // All turns are taken, so requests collect.
        let turns = history.turns.acquire_many(u32::try_from(QUERIES_AT_ONCE).expect("few")).await.expect("open");
        let mut asking: Vec<_> = (0..3 * PAGES_PER_QUERY)
            .map(|n| {
                let (history, stream) = (history.clone(), stream(n / 2));
                tokio::spawn(async move { history.page(&stream, 0).await })
            })
            .collect();
        tokio::task::yield_now().await;
        for gone in asking.drain(..PAGES_PER_QUERY) {
            gone.abort();
            let _ = gone.await;
        }
        assert_eq!(history.waiting.lock().expect("no panic").len(), 3 * PAGES_PER_QUERY);
        assert_eq!(history.next_batch().len(), PAGES_PER_QUERY, "these are asked for again by who waits for them");
        assert_eq!(history.waiting.lock().expect("no panic").len(), PAGES_PER_QUERY, "and nobody waits for the others");
        drop(turns);
        for page in asking {
            assert_eq!(page.await.expect("no panic").expect("a page").head, 0);
        }
    }
}
