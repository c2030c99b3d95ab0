//! Notices that an app or key was changed by another node or a command, within a second, or at once if the bus brings
//! the message. Then it empties this node's caches and closes the sockets whose credentials are no longer good. The same look
//! finds a new epoch of the store.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{Progress, Worker, WorkerError};
use crate::{
    hub::Hub,
    store::{Revisions, Store},
};

/// Finds what another node or a command changed.
pub struct IdentityWatch {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    /// Notified when another node reports a change.
    changed: Arc<Notify>,
    seen: Option<u64>,
    /// A socket that was opening during the last run may have been missed, so the next run checks again.
    look_again: bool,
}

impl IdentityWatch {
    /// Looks when its time has come, and when `changed` is notified.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, hub: Arc<Hub>, changed: Arc<Notify>) -> Self {
        Self { store, hub, changed, seen: None, look_again: false }
    }
}

#[async_trait(?Send)]
impl Worker for IdentityWatch {
    fn name(&self) -> &'static str {
        "identity_watch"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn run_once(&mut self) -> Result<Progress, WorkerError> {
        let Revisions { identity, epoch } = self.store.revisions().await?;
        self.hub.check_epoch(&epoch);
        let changed = self.seen != Some(identity);
        if changed || self.look_again {
            self.hub.check_credentials().await?;
            self.look_again = changed;
            self.seen = Some(identity);
        }
        Ok(Progress::Done)
    }

    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.changed.notified() => {}
        }
    }
}
