//! Says once a second that this node lives, in the store that all share, and learns which others do: a node that is cut
//! off from the bus is seen here alone.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Progress, Worker, WorkerError};
use crate::{hub::Hub, store::Store};

pub struct NodeBeats {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
}

impl NodeBeats {
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
        // To the end of the drain: what is committed until then, the others must look for.
        self.hub.beat(&*self.store).await?;
        Ok(Progress::Done)
    }
}
