//! The bus between nodes: committed events, requests to resynchronise, and news of changed credentials. Everything on it
//! is a hint. What is lost is found in the store.

mod local;
mod message;
mod redis;
mod state;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use oriva_hub_actors::{
    model::{NodeId, StreamKey},
    ports::Bus,
    protocol::PublishedEvent,
};

pub use self::redis::RedisBus;
pub use local::LocalBus;
pub use state::BusState;

/// What a node learns over the bus.
#[derive(Debug)]
pub enum BusEvent {
    /// Other nodes committed events; each with the stream on whose channel it came.
    Events(Vec<(StreamKey, Arc<PublishedEvent>)>),
    /// A frame that is no event, for the sockets of a stream.
    Frame(StreamKey, Bytes),
    /// Another node has no connection left for a stream.
    Probe(StreamKey),
    /// Something may have been lost: compare all streams with the store.
    Resync,
    /// A credential changed on another node.
    CredentialsChanged,
}

/// What the hub asks of a bus, beside what sessions need of it.
#[async_trait]
pub trait NodeBus: Bus {
    /// Whether other nodes can be heard.
    fn state(&self) -> BusState;

    /// Number of other nodes that are heard.
    fn heard(&self) -> usize;

    /// Has other nodes look for changed credentials now.
    fn credentials_changed(&self);

    /// Sets the nodes that the store knows. A node among them that is not heard may commit what nobody tells of.
    fn set_known_nodes(&self, others: &[NodeId]);

    /// Waits until everything queued is sent, for a second at most.
    async fn flush(&self);
}
