//! Notices that an app or key changed, on whichever node or by whichever command: empties this node's caches and closes
//! the sockets of credentials that are not good any more. Within a second, and at once where the bus tells of it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use oriva_hub_actors::model::Timestamp;
use tokio::sync::Notify;

use super::{Progress, Worker, WorkerError};
use crate::{hub::Hub, store::Store};

/// Keys revoked longer ago than this have no socket left to close.
const LOOK_BACK: Duration = Duration::from_secs(10 * 60);

pub struct IdentityWatch {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    /// Another node said that something changed.
    told: Arc<Notify>,
    seen: Option<u64>,
    /// A socket that was being opened during the last run may have passed it: the next run looks again.
    look_again: bool,
}

impl IdentityWatch {
    #[must_use]
    pub fn new(store: Arc<dyn Store>, hub: Arc<Hub>, told: Arc<Notify>) -> Self {
        Self { store, hub, told, seen: None, look_again: false }
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
        let revision = self.store.identity_revision().await?;
        let changed = self.seen != Some(revision);
        if changed || self.look_again {
            let since = Timestamp::from(Timestamp::now().as_datetime() - LOOK_BACK);
            self.hub.credentials_changed(self.store.revoked_credentials(since).await?);
            self.look_again = changed;
            self.seen = Some(revision);
        }
        Ok(Progress::Done)
    }

    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.told.notified() => {}
        }
    }
}
