//! Nodes in SQLite: an embedded store has one, the one that asks.

use async_trait::async_trait;
use oriva_hub_actors::model::NodeId;

use super::SqliteStore;
use crate::store::{Heartbeats, NodeBeat, NodeStore, StoreError};

#[async_trait]
impl NodeStore for SqliteStore {
    async fn beat(&self, _: &NodeBeat) -> Result<Heartbeats, StoreError> {
        Ok(Heartbeats::default())
    }

    async fn leave(&self, _: NodeId) -> Result<(), StoreError> {
        Ok(())
    }
}
