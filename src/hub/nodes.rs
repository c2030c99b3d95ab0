//! This node among the others: who is online over all of them, and how the hub as a whole stands (contract §8).

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use oriva_hub_actors::model::{AppId, NodeId, StreamKey, UserId};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Hub, HubError};
use crate::{
    bus::{BusState, NodeBus},
    presence::Presence,
    store::{NodeBeat, Store, StoreError},
};

/// What a node knows the others by.
#[derive(Clone)]
pub struct NodeParts {
    pub node: NodeId,
    pub bus: Arc<dyn NodeBus>,
    pub presence: Arc<dyn Presence>,
}

/// A user, as somebody with a certain reach sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct UserPresence {
    pub online: bool,
    pub connections: usize,
    /// Other nodes could not be asked: these are this node's own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// The hub as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stats {
    pub nodes: usize,
    pub connections: usize,
    pub users_online: usize,
    pub deliveries_pending: u64,
    pub bus: BusState,
    /// Other nodes could not be asked who is online: users may be counted once a node.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// The other nodes, as the store last said.
#[derive(Default)]
pub(super) struct Others {
    beats: Mutex<Vec<NodeBeat>>,
    /// This node beats no more.
    has_left: AtomicBool,
    beating: tokio::sync::Mutex<()>,
}

impl Others {
    fn list(&self) -> Vec<NodeBeat> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Hub {
    /// How many sockets a user has open over all nodes that are shown what `app` publishes; `None`: all of them.
    pub async fn presence(&self, user: &UserId, app: Option<&AppId>) -> UserPresence {
        let stream = StreamKey::User(user.clone());
        let here = self.online.connection_counts(&stream).await.visible_to(app);
        let elsewhere = self.nodes.presence.elsewhere(&stream).await;
        let partial = elsewhere.is_err()
            || match self.nodes.bus.state() {
                BusState::Split => true,
                // Other nodes serve the same store, and there is no way to ask them.
                BusState::None => !self.others.list().is_empty(),
                BusState::Connected | BusState::Away => false,
            };
        let elsewhere: usize = elsewhere.unwrap_or_default().iter().map(|held| held.visible_to(app)).sum();
        UserPresence { online: here + elsewhere > 0, connections: here + elsewhere, partial }
    }

    /// The hub as a whole.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn stats(&self) -> Result<Stats, HubError> {
        let deliveries_pending = self.store.pending_deliveries().await?;
        let others = self.others.list();
        let snapshot = self.online.connection_snapshot().await;
        let connections_here: usize = snapshot.iter().map(|(_, held)| held.total()).sum();
        let users_here: HashSet<String> = snapshot
            .iter()
            .filter_map(|(stream, _)| match stream {
                StreamKey::User(user) => Some(user.to_string()),
                StreamKey::App(_) | StreamKey::Broadcast => None,
            })
            .collect();
        let elsewhere = match (self.nodes.bus.state(), others.is_empty()) {
            (_, true) => Ok(0),
            (BusState::None, _) => Err(crate::presence::Unknown),
            _ => self.nodes.presence.users_elsewhere(&users_here).await,
        };
        Ok(Stats {
            nodes: 1 + others.len(),
            connections: connections_here + others.iter().map(|node| node.connections).sum::<usize>(),
            users_online: users_here.len() + elsewhere.unwrap_or_else(|_| others.iter().map(|node| node.users).sum()),
            deliveries_pending,
            bus: self.nodes.bus.state(),
            partial: elsewhere.is_err() || self.nodes.bus.state() == BusState::Split,
        })
    }

    /// How the bus stands.
    #[must_use]
    pub fn bus(&self) -> BusState {
        self.nodes.bus.state()
    }

    /// Says in the store that this node lives, and learns which others do.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn beat(&self, store: &dyn Store) -> Result<(), StoreError> {
        // Not while it leaves: its last beat would come after its farewell.
        let _beating = self.others.beating.lock().await;
        if self.others.has_left.load(Ordering::SeqCst) {
            return Ok(());
        }
        let state = self.online.observe().await;
        let on_bus = matches!(self.nodes.bus.state(), BusState::Connected | BusState::Split);
        let own = NodeBeat { node: self.nodes.node, on_bus, connections: state.connections, users: state.users };
        let others = store.beat(&own).await?;
        self.nodes.bus.set_known_nodes(&others.iter().map(|other| other.node).collect::<Vec<_>>());
        *self.others.beats.lock().unwrap_or_else(PoisonError::into_inner) = others;
        Ok(())
    }

    /// Leaves the other nodes: what was to be told is told, and what this node held is given back.
    pub async fn leave(&self, store: &dyn Store) {
        self.others.has_left.store(true, Ordering::SeqCst);
        self.nodes.bus.flush().await;
        self.nodes.presence.leave().await;
        let _beating = self.others.beating.lock().await;
        if let Err(error) = store.leave(self.nodes.node).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the other nodes will find out by themselves");
        }
    }
}
