//! Advances recoveries of webhooks, one bounded step at a time. They are rows in the store, so they continue after a
//! restart.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Progress, Worker, WorkerError};
use crate::hub::Hub;

/// Advances recoveries, one page after the other.
pub struct WebhookRecovery {
    hub: Arc<Hub>,
}

impl WebhookRecovery {
    /// Works for `hub`.
    #[must_use]
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }
}

#[async_trait(?Send)]
impl Worker for WebhookRecovery {
    fn name(&self) -> &'static str {
        "webhook_recovery"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn run_once(&mut self) -> Result<Progress, WorkerError> {
        Ok(if self.hub.advance_recovery().await? { Progress::More } else { Progress::Done })
    }

    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.hub.recovery_opened() => {}
        }
    }
}
