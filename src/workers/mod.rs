//! Work of the hub's own, on a period. Each worker is idempotent, takes no input and does one bounded run.

mod idempotency_purge;
mod identity_watch;
mod key_usage;

use std::time::Duration;

use async_trait::async_trait;
pub use idempotency_purge::IdempotencyPurge;
pub use identity_watch::IdentityWatch;
pub use key_usage::KeyUsage;

use crate::store::StoreError;

/// Whether a run left work behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Done,
    /// The run's bound was reached: go on at once.
    More,
}

/// One worker.
#[async_trait(?Send)]
pub trait Worker {
    fn name(&self) -> &'static str;
    fn period(&self) -> Duration;

    /// One run.
    ///
    /// # Errors
    /// The run is logged and tried again after the period.
    async fn run_once(&mut self) -> Result<Progress, StoreError>;
}

/// Runs a worker until the system stops. The first run comes after the first period.
pub fn spawn(mut worker: impl Worker + 'static) {
    actix_rt::spawn(async move {
        loop {
            tokio::time::sleep(worker.period()).await;
            loop {
                match worker.run_once().await {
                    Ok(Progress::More) => tokio::task::yield_now().await,
                    Ok(Progress::Done) => break,
                    Err(error) => {
                        tracing::warn!(
                            worker = worker.name(),
                            error = &error as &dyn std::error::Error,
                            "worker failed"
                        );
                        break;
                    }
                }
            }
        }
    });
}
