//! Expires notifications. It sleeps until the next `expires_at`, at most a configured time, and is woken for an earlier
//! one. Any number of nodes may run it: a row is expired by the node that locks it (contract §6).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use oriva_hub_actors::model::Timestamp;

use super::{Progress, Worker, WorkerError};
use crate::{
    config::Expiry,
    hub::{Hub, NextExpiry},
    store::Store,
};

/// Shortest pause, so that a row that another transaction has locked is not read in a loop.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Ends notifications at their time.
pub struct NotificationExpiry {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    next: Arc<NextExpiry>,
    longest: Duration,
    batch: u32,
}

impl NotificationExpiry {
    /// Submits to `hub`'s writer.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, hub: Arc<Hub>, config: &Expiry) -> Self {
        let longest = Duration::from_secs(config.max_interval_seconds);
        Self { store, next: hub.next_expiry(), hub, longest, batch: config.batch }
    }
}

#[async_trait(?Send)]
impl Worker for NotificationExpiry {
    fn name(&self) -> &'static str {
        "notification_expiry"
    }

    fn period(&self) -> Duration {
        self.longest
    }

    async fn run_once(&mut self) -> Result<Progress, WorkerError> {
        let expired = match self.hub.expire_notifications(self.batch).await {
            Ok(expired) => expired,
            // The rows stay due.
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "notifications not ended");
                return Err(WorkerError::Logged { retry_in: AFTER_FAILURE });
            }
        };
        if expired.changed > 0 {
            tracing::info!(count = expired.changed, "notifications expired");
        }
        if !expired.is_complete {
            return Ok(Progress::More);
        }
        let now = Timestamp::now();
        // A notification created from here on wakes this worker. One created before is found by the query below.
        self.next.sleeps_until(Timestamp::from(now.as_datetime() + self.longest));
        let until_next = match self.store.next_expiry().await? {
            Some(next) => Duration::from_millis(u64::try_from(next.unix_ms() - now.unix_ms() + 1).unwrap_or(0)),
            None => self.longest,
        };
        let pause = until_next.clamp(LEAST_PAUSE, self.longest);
        self.next.sleeps_until(Timestamp::from(now.as_datetime() + pause));
        Ok(Progress::Until(pause))
    }

    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.next.earlier() => {}
        }
    }
}
