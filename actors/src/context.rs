//! What the actors of one shard share, and what the realtime core needs from outside.

use std::sync::{Arc, atomic::AtomicUsize};

use crate::{
    config::RealtimeConfig,
    ports::{Bus, ConnectionLimiter, Credentials, DeliveryReceipts, EventHistory},
    socket_loop::handle::SocketLoopHandle,
};

/// The adapters that the realtime core works with.
#[derive(Clone)]
pub struct Ports {
    /// Committed events, for gaps and replays.
    pub history: Arc<dyn EventHistory>,
    /// Verifies tokens that clients send on an open socket.
    pub credentials: Arc<dyn Credentials>,
    /// Records which notifications reached their users.
    pub receipts: Arc<dyn DeliveryReceipts>,
    /// The connection to the other nodes.
    pub bus: Arc<dyn Bus>,
    /// Counts connections over all nodes.
    pub limiter: Arc<dyn ConnectionLimiter>,
}

/// What registry and sessions of one shard share.
pub(crate) struct ShardContext {
    pub config: RealtimeConfig,
    pub ports: Ports,
    pub socket_loop: SocketLoopHandle,
    /// Connections held on this shard, those included whose socket is being opened or closed. While it is 0 no session
    /// exists here, so events need not be routed to this shard.
    pub connections: AtomicUsize,
}
