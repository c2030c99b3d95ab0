//! While nothing can be written, tries once a second whether it can again. A node that is not ready gets no requests that
//! would find out.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Progress, Worker, WorkerError};
use crate::{hub::WriteState, store::Store};

/// Tries to write after a write failed.
pub struct WriteWatch {
    store: Arc<dyn Store>,
    state: WriteState,
}

impl WriteWatch {
    /// Writes to `store` while `state` says that it takes no writes.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, state: WriteState) -> Self {
        Self { store, state }
    }
}

#[async_trait(?Send)]
impl Worker for WriteWatch {
    fn name(&self) -> &'static str {
        "write_watch"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn run_once(&mut self) -> Result<Progress, WorkerError> {
        if self.state.has_failed() {
            match self.store.try_writing().await {
                Ok(()) => self.state.succeeded(),
                Err(error) if error.is_closed() => return Err(error.into()),
                Err(error) => self.state.failed(&error),
            }
        }
        Ok(Progress::Done)
    }
}
