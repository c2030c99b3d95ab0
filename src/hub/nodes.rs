//! This node and the others: presence over all nodes, and figures of the whole hub (contract §8).

use std::collections::HashSet;

use oriva_hub_actors::model::{AppId, StreamKey, Timestamp, UserId};
use serde::Serialize;
use utoipa::ToSchema;

use super::{core::Hub, error::HubError, write_state::take_new_epoch};
use crate::{
    bus::BusState,
    presence::Unknown,
    store::{Heartbeats, NodeBeat, Outage, Store, StoreError},
};

/// The presence of a user, as far as the caller's scope goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct UserPresence {
    /// Whether the user has a connection.
    pub online: bool,
    /// Connections that get the asking app's events.
    pub connections: usize,
    /// Not all nodes' connections could be read: these are the ones that could.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// Figures of the whole hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stats {
    /// Nodes that are alive.
    pub nodes: usize,
    /// Connections on all nodes.
    pub connections: usize,
    /// Users with a connection to any node.
    pub users_online: usize,
    /// Deliveries that are due, wait for an attempt, or are being sent.
    pub deliveries_pending: u64,
    /// Whether this node hears the others.
    pub bus: BusState,
    /// Other nodes' users could not be read, so a user on two nodes may be counted twice.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

impl Hub {
    /// Number of a user's sockets, over all nodes, that get what `app` publishes. `None`: all of them.
    pub async fn presence(&self, user: &UserId, app: Option<&AppId>) -> UserPresence {
        let stream = StreamKey::User(user.clone());
        let here = self.realtime.connection_counts(&stream).await.visible_to(app);
        let elsewhere = self.cluster.presence.elsewhere(&stream).await;
        let partial = elsewhere.is_err()
            || match self.cluster.bus.state() {
                BusState::Split => true,
                // Other nodes serve the same store, and without a bus they cannot be asked.
                BusState::None => !self.peers.list().is_empty(),
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
        let others = self.peers.list();
        let snapshot = self.realtime.connection_snapshot().await;
        let connections_here: usize = snapshot.iter().map(|(_, held)| held.total()).sum();
        let users_here: HashSet<String> = snapshot
            .iter()
            .filter_map(|(stream, _)| match stream {
                StreamKey::User(user) => Some(user.to_string()),
                StreamKey::App(_) | StreamKey::Broadcast => None,
            })
            .collect();
        let elsewhere = match (self.cluster.bus.state(), others.is_empty()) {
            (_, true) => Ok(0),
            (BusState::None, _) => Err(Unknown),
            _ => self.cluster.presence.users_elsewhere(&users_here).await,
        };
        Ok(Stats {
            nodes: 1 + others.len(),
            connections: connections_here + others.iter().map(|node| node.connections).sum::<usize>(),
            users_online: users_here.len() + elsewhere.unwrap_or_else(|_| others.iter().map(|node| node.users).sum()),
            deliveries_pending,
            bus: self.bus(),
            partial: elsewhere.is_err() || self.bus() == BusState::Split,
        })
    }

    /// How the bus stands.
    #[must_use]
    pub fn bus(&self) -> BusState {
        match self.cluster.bus.state() {
            // The others count on one.
            BusState::None if self.peers.have_bus() => BusState::Split,
            state => state,
        }
    }

    /// Whether limits and presence are counted by this node alone although they should be counted over all.
    #[must_use]
    pub fn counts_alone(&self) -> bool {
        self.counting.is_off()
    }

    /// Whether this node's clock is so far from the database's that it judges tokens wrongly.
    #[must_use]
    pub fn clock_is_far_off(&self) -> bool {
        self.clock.is_far_off()
    }

    /// Writes this node's heartbeat to the store, and reads which other nodes are alive.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn beat(&self, store: &dyn Store) -> Result<(), StoreError> {
        // Under the lock. Otherwise a last heartbeat could be written after this node has removed itself.
        let _beating = self.peers.beating().await;
        if self.peers.has_left() {
            return Ok(());
        }
        let state = self.realtime.observe().await;
        let on_bus = matches!(self.cluster.bus.state(), BusState::Connected | BusState::Split);
        let own = NodeBeat { node: self.cluster.node, on_bus, connections: state.connections, users: state.users };
        let asked = Timestamp::now();
        let Heartbeats { others, now } = match store.beat(&own).await {
            Ok(beats) => beats,
            Err(error) => {
                // The heartbeat is what an idle node writes.
                match &error {
                    StoreError::LostCommits => take_new_epoch(store, &self.epoch, &self.writer.state()).await,
                    StoreError::Unavailable(Outage::ReadOnly | Outage::Full, _) => self.writer.state().failed(&error),
                    _ => {}
                }
                return Err(error);
            }
        };
        if let Some(now) = now {
            self.clock.compare(asked, Timestamp::now(), now);
        }
        self.counting.compare(self.cluster.presence.counting(), self.limits().fail(), self.cluster.bus.heard());
        self.cluster.bus.set_known_nodes(&others.iter().map(|other| other.node).collect::<Vec<_>>());
        self.peers.set(others);
        self.peers.note_split(self.bus() == BusState::Split);
        Ok(())
    }

    /// Stops as a node: sends pending bus messages, gives connection permits back, and removes this node from the
    /// store.
    pub async fn leave(&self, store: &dyn Store) {
        self.peers.set_left();
        self.cluster.bus.flush().await;
        self.cluster.presence.leave().await;
        let _beating = self.peers.beating().await;
        if let Err(error) = store.leave(self.cluster.node).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the other nodes will find out by themselves");
        }
    }
}
