//! Writes when keys were last used: once a minute for all keys, not once for each request.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Progress, Worker, WorkerError};
use crate::{auth::Authenticator, store::Store};

/// Writes when keys were last used.
pub struct KeyUsage {
    store: Arc<dyn Store>,
    auth: Arc<Authenticator>,
}

impl KeyUsage {
    /// Writes what `auth` collects.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, auth: Arc<Authenticator>) -> Self {
        Self { store, auth }
    }
}

#[async_trait(?Send)]
impl Worker for KeyUsage {
    fn name(&self) -> &'static str {
        "key_usage"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn run_once(&mut self) -> Result<Progress, WorkerError> {
        let used = self.auth.take_used();
        if !used.is_empty() {
            self.store.touch_keys(&used).await?;
        }
        Ok(Progress::Done)
    }
}
