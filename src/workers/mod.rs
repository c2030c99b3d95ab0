//! Periodic work. Each worker is idempotent and does one bounded run at a time.

mod archiver;
mod delivery_receipts;
mod idempotency_purge;
mod identity_watch;
mod key_usage;
mod node_beat;
mod notification_expiry;
mod outbox_watch;
mod webhook_recovery;
mod write_watch;

use std::{rc::Rc, sync::Arc, time::Duration};

pub use archiver::{Archiver, ArchiverError};
use async_trait::async_trait;
pub use delivery_receipts::DeliveryReceiptWriter;
pub use idempotency_purge::IdempotencyPurge;
pub use identity_watch::IdentityWatch;
pub use key_usage::KeyUsage;
pub use node_beat::NodeBeats;
pub use notification_expiry::NotificationExpiry;
use oriva_hub_actors::{Tasks, metric_names, model::Timestamp};
pub use outbox_watch::OutboxWatch;
pub use webhook_recovery::WebhookRecovery;
pub use write_watch::WriteWatch;

use crate::store::{Store, StoreError, within_deadline};

/// Longest pause after a failed run.
const LONGEST_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Whether a run left work behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left to do.
    Done,
    /// There is nothing to do for this long.
    Until(Duration),
    /// The run's limit was reached: run again at once.
    More,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something other than the store failed, and the worker has logged it.
    /// It failed, and has logged why.
    #[error("it failed, and logged why")]
    Logged {
        /// The pause before the next try.
        retry_in: Duration,
    },
}

/// One worker.
#[async_trait(?Send)]
pub trait Worker {
    /// The name in metrics and in the log.
    fn name(&self) -> &'static str;
    /// The pause after a run that left nothing to do.
    fn period(&self) -> Duration;

    /// Whether a run may take longer than one query's deadline, and applies that deadline to each query itself.
    fn manages_own_deadline(&self) -> bool {
        false
    }

    /// Does one run.
    ///
    /// # Errors
    /// The run failed and is tried again.
    async fn run_once(&mut self) -> Result<Progress, WorkerError>;

    /// Waits between runs. A worker can end the wait early.
    async fn pause(&mut self, pause: Duration) {
        tokio::time::sleep(pause).await;
    }
}

/// Runs workers until the store is closed.
pub struct Workers {
    store: Arc<dyn Store>,
    tasks: Tasks,
}

impl Workers {
    /// Workers on this store. Those that panic are restarted, and reported as down by `tasks`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, tasks: Tasks) -> Self {
        Self { store, tasks }
    }

    /// Starts a worker on the caller's thread.
    pub fn spawn(&self, worker: impl Worker + 'static) {
        let (store, tasks, name) = (self.store.clone(), self.tasks.clone(), worker.name());
        // Registered with 0, so that the first failure is visible as an increase.
        for outcome in ["succeeded", "failed"] {
            metrics::counter!(metric_names::WORKER_RUNS, "worker" => name, "outcome" => outcome).increment(0);
        }
        let worker = Rc::new(tokio::sync::Mutex::new(worker));
        actix_rt::spawn(async move {
            let build = || {
                let (worker, store) = (worker.clone(), store.clone());
                async move { run(&mut *worker.lock().await, &*store).await }
            };
            tasks.keep_running(name, build).await;
        });
    }
}

/// Runs a worker until the store is closed.
async fn run(worker: &mut impl Worker, store: &dyn Store) {
    loop {
        let outcome = if worker.manages_own_deadline() {
            worker.run_once().await
        } else {
            within_deadline(store, worker.run_once()).await
        };
        let label = if outcome.is_ok() { "succeeded" } else { "failed" };
        metrics::counter!(metric_names::WORKER_RUNS, "worker" => worker.name(), "outcome" => label).increment(1);
        if outcome.is_ok() {
            let now = Timestamp::now().unix_ms() as f64 / 1000.0;
            metrics::gauge!(metric_names::WORKER_SUCCESS, "worker" => worker.name()).set(now);
        }
        let pause = match outcome {
            Ok(Progress::More) => {
                tokio::task::yield_now().await;
                continue;
            }
            Ok(Progress::Until(pause)) => pause,
            Ok(Progress::Done) => worker.period(),
            Err(WorkerError::Store(error)) if error.is_closed() => return,
            Err(WorkerError::Store(error)) => {
                let (name, error) = (worker.name(), &error as &dyn std::error::Error);
                tracing::warn!(worker = name, error, "worker failed");
                worker.period().min(LONGEST_AFTER_FAILURE)
            }
            Err(WorkerError::Logged { retry_in }) => retry_in,
        };
        worker.pause(pause).await;
    }
}
