//! Writes down when notifications were handed to a socket of their user (`delivered_at`), many at a time.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Progress, Worker, WorkerError};
use crate::{hub::HandedNotifications, store::Store};

/// Rows of one run: no long lock.
const BATCH: usize = 1000;

pub struct HandedNotes {
    store: Arc<dyn Store>,
    handed: Arc<HandedNotifications>,
}

impl HandedNotes {
    #[must_use]
    pub fn new(store: Arc<dyn Store>, handed: Arc<HandedNotifications>) -> Self {
        Self { store, handed }
    }
}

#[async_trait(?Send)]
impl Worker for HandedNotes {
    fn name(&self) -> &'static str {
        "handed_notes"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn run_once(&mut self) -> Result<Progress, WorkerError> {
        let handed = self.handed.take(BATCH);
        if handed.is_empty() {
            return Ok(Progress::Done);
        }
        if let Err(error) = self.store.note_handed(&handed).await {
            self.handed.put_back(handed);
            return Err(error.into());
        }
        Ok(if handed.len() == BATCH { Progress::More } else { Progress::Done })
    }
}
