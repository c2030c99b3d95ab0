//! Writes this node's heartbeat to the store once a second, and reads those of other nodes. Only this finds a node that
//! is cut off from the bus.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Progress, Worker, WorkerError};
use crate::{hub::Hub, store::Store};

/// Writes that this node is alive, and reads who else is.
pub struct NodeBeats {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
}

impl NodeBeats {
    /// Writes to `store` for `hub`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, hub: Arc<Hub>) -> Self {
        Self { store, hub }
    }
}

#[async_trait(?Send)]
impl Worker for NodeBeats {
    fn name(&self) -> &'static str {
        "node_beats"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn run_once(&mut self) -> Result<Progress, WorkerError> {
        // Continues to the end of the drain: other nodes must resync for what this node commits until then.
        self.hub.beat(&*self.store).await?;
        Ok(Progress::Done)
    }
}
