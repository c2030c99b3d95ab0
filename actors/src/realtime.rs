//! The handle to everybody who is online: on this node, and over the bus on the others. Users and apps are spread over
//! shards by a hash of their stream.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};

use crate::{
    config::RealtimeConfig,
    connection_permit::{AcquireError, ConnectionPermit},
    context::Ports,
    model::{AppId, ConnectionCounts, Grant, Identity, StreamKey, WebhookId},
    ports::{Bus, Expiry},
    protocol::{ClientFrame, Close, PublishedEvent, ServerFrame},
    registry::messages::{
        Acquire, ConnectionSnapshot, CountsOf, Observe, Probe, Received, RegistryState, Route, SendFrame, StopAccepting,
    },
    shard::Shard,
    socket::{
        new_socket::{NewSocket, Purpose},
        transport::Transport,
    },
    socket_loop::handle::SocketLoopHandle,
    supervise::Tasks,
};

/// Everybody who is online, behind one handle. Cheap to clone.
#[derive(Clone)]
pub struct Realtime {
    shards: Arc<Vec<Shard>>,
    bus: Arc<dyn Bus>,
}

/// A connection that was permitted and has no socket yet. Dropping it gives the permit back.
pub struct ReservedConnection {
    permit: ConnectionPermit,
    socket_loop: SocketLoopHandle,
}

/// What was agreed on while a socket was opened.
pub struct Opening {
    /// Who the socket belongs to.
    pub identity: Arc<Identity>,
    /// Until when its token is valid; `None` for a key.
    pub expiry: Option<Expiry>,
    /// Whether permessage-deflate was negotiated.
    pub deflate: bool,
    /// A `subscribe` to begin with.
    pub subscribe: Option<ClientFrame>,
}

impl Realtime {
    /// Starts the shards. Must be called within a running actix `System`.
    #[must_use]
    pub fn start(config: &RealtimeConfig, ports: &Ports, tasks: &Tasks) -> Self {
        let shards = (0..config.shards.max(1)).map(|_| Shard::start(config, ports.clone(), tasks)).collect();
        Self { shards: Arc::new(shards), bus: ports.bus.clone() }
    }

    fn index_of(&self, stream: &StreamKey) -> usize {
        let mut hasher = DefaultHasher::new();
        stream.hash(&mut hasher);
        (hasher.finish() % self.shards.len() as u64) as usize
    }

    fn shard_of(&self, stream: &StreamKey) -> &Shard {
        &self.shards[self.index_of(stream)]
    }

    /// Asks for the right to one more connection.
    ///
    /// # Errors
    /// [`AcquireError`]: the holder has as many as it may, or this node is stopping.
    pub async fn acquire(&self, identity: &Identity) -> Result<ReservedConnection, AcquireError> {
        let stream = identity.stream();
        let shard = self.shard_of(&stream);
        let acquire = Acquire { stream, scope: identity.scope() };
        let permit = shard.registry().send(acquire).await.map_err(|_| AcquireError::Draining)??;
        Ok(ReservedConnection { permit, socket_loop: shard.context().socket_loop.clone() })
    }

    /// Routes events that this node committed, in the order of commit: to the sessions here, and over the bus to the
    /// other nodes. Never waits. What is lost on the way is found in the store.
    pub fn publish(&self, events: &[Arc<PublishedEvent>]) {
        for shard in self.shards.iter() {
            let is_empty = shard.context().connections.load(Ordering::SeqCst) == 0;
            let is_here = |stream: StreamKey| std::ptr::eq(self.shard_of(&stream), shard);
            let concerned = events.iter().filter(|event| {
                let event = event.event();
                // Every shard keeps its place in the broadcast stream, for whoever comes next.
                event.offsets.broadcast.is_some()
                    || !is_empty
                        && (is_here(StreamKey::App(event.app_id.clone()))
                            || event.user_id.clone().is_some_and(|user| is_here(StreamKey::User(user))))
            });
            let events: Vec<_> = concerned.cloned().collect();
            if !events.is_empty() {
                shard.hint(Route { events });
            }
        }
        self.bus.publish(events);
    }

    /// Routes events that other nodes committed, each with the one stream on whose channel it came. Never waits, as
    /// [`Realtime::publish`].
    pub fn receive(&self, events: Vec<(StreamKey, Arc<PublishedEvent>)>) {
        let mut by_shard: Vec<Vec<_>> = self.shards.iter().map(|_| Vec::new()).collect();
        for (stream, event) in events {
            if stream == StreamKey::Broadcast {
                by_shard.iter_mut().for_each(|events| events.push((StreamKey::Broadcast, event.clone())));
            } else {
                by_shard[self.index_of(&stream)].push((stream, event));
            }
        }
        for (shard, events) in self.shards.iter().zip(by_shard) {
            if !events.is_empty() {
                shard.hint(Received { events });
            }
        }
    }

    /// Sends a frame that is no event to the sockets of a stream on this node. Dropped where a mailbox is full.
    pub fn send_frame(&self, stream: StreamKey, frame: Bytes) {
        let _ = self.shard_of(&stream).registry().try_send(SendFrame { stream, frame });
    }

    /// Has the sockets of a stream on this node dropped that do not answer a ping.
    pub fn probe(&self, stream: StreamKey) {
        // What is dropped here is asked for again.
        let _ = self.shard_of(&stream).registry().try_send(Probe { stream });
    }

    /// Tells an app's sockets, on all nodes, that one of its webhooks was disabled. The webhook itself says so too.
    pub fn send_webhook_disabled(&self, app: &AppId, webhook: WebhookId, reason: &str) {
        let frame = ServerFrame::WebhookDisabled { webhook_id: webhook, reason }.encode();
        let stream = StreamKey::App(app.clone());
        self.bus.send_frame(&stream, &frame);
        self.send_frame(stream, frame);
    }

    /// Has every session on all nodes compared with the store: something may be committed that nobody can tell of.
    pub fn resync_all_nodes(&self) {
        self.resync();
        self.bus.request_resync();
    }

    /// Has every session of this node compared with the store, many streams in one query.
    pub fn resync(&self) {
        self.shards.iter().for_each(Shard::resync);
    }

    /// The connections that a user or app holds on this node.
    pub async fn connection_counts(&self, stream: &StreamKey) -> ConnectionCounts {
        self.shard_of(stream).registry().send(CountsOf { stream: stream.clone() }).await.unwrap_or_default()
    }

    /// The connections that every user and app holds on this node.
    pub async fn connection_snapshot(&self) -> Vec<(StreamKey, ConnectionCounts)> {
        let mut all = Vec::new();
        for shard in self.shards.iter() {
            all.extend(shard.registry().send(ConnectionSnapshot).await.unwrap_or_default());
        }
        all
    }

    /// What the sockets of this node rest on.
    pub async fn grants(&self) -> HashSet<Grant> {
        let mut all = HashSet::new();
        for shard in self.shards.iter() {
            all.extend(shard.context().socket_loop.grants().await);
        }
        all
    }

    /// Closes the sockets that rest on these.
    pub fn close_grants(&self, grants: HashMap<Grant, Close>) {
        let grants = Arc::new(grants);
        for shard in self.shards.iter() {
            shard.context().socket_loop.close_grants(grants.clone());
        }
    }

    /// Permits no more connections, and closes every socket with 1001 at a random moment within `over`.
    pub fn drain(&self, over: Duration) {
        for shard in self.shards.iter() {
            shard.registry().do_send(StopAccepting);
            shard.context().socket_loop.drain(over);
        }
    }

    /// Sockets open on this node.
    #[must_use]
    pub fn open_sockets(&self) -> usize {
        self.shards.iter().map(Shard::open_sockets).sum()
    }

    /// The figures of all registries, added up.
    pub async fn observe(&self) -> RegistryState {
        let mut sum = RegistryState::default();
        for shard in self.shards.iter() {
            if let Ok(state) = shard.registry().send(Observe).await {
                sum.sessions += state.sessions;
                sum.connections += state.connections;
                sum.users += state.users;
            }
        }
        sum
    }

    /// Closes a socket that was rejected after its upgrade, with the reason as its close code.
    pub fn close_rejected(&self, transport: Transport, close: Close) {
        self.adopt_anywhere(transport, BytesMut::new(), false, Purpose::Reject(close));
    }

    /// Sends a socket back what it sends.
    #[cfg(feature = "echo")]
    pub fn echo(&self, transport: Transport, read_ahead: BytesMut, deflate: bool) {
        self.adopt_anywhere(transport, read_ahead, deflate, Purpose::Echo);
    }

    fn adopt_anywhere(&self, transport: Transport, read_ahead: BytesMut, deflate: bool, purpose: Purpose) {
        if let Some(shard) = self.shards.first() {
            shard.context().socket_loop.adopt(NewSocket { transport, read_ahead, deflate, subscribe: None, purpose });
        }
    }

    /// Whether permessage-deflate is offered.
    #[must_use]
    pub fn compresses(&self) -> bool {
        self.shards.first().is_some_and(|shard| shard.context().config.compress_from.is_some())
    }

    /// Makes a registry panic.
    #[cfg(any(test, feature = "testing"))]
    pub fn panic_registry(&self) {
        self.shards[0].registry().do_send(crate::registry::messages::PanicRegistry);
    }

    /// Makes the session of a stream panic.
    #[cfg(any(test, feature = "testing"))]
    pub fn panic_session(&self, stream: StreamKey) {
        self.shard_of(&stream).registry().do_send(crate::registry::messages::PanicSession { stream });
    }
}

impl ReservedConnection {
    /// Hands over the socket that the connection was permitted for.
    pub fn attach(self, transport: Transport, read_ahead: BytesMut, opening: Opening) {
        let Opening { identity, expiry, deflate, subscribe } = opening;
        let purpose = Purpose::Follow { identity, permit: self.permit, expiry };
        self.socket_loop.adopt(NewSocket { transport, read_ahead, deflate, subscribe, purpose });
    }

    /// Joins a socket that exists in name only, for tests and benches.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn join(&mut self, join: crate::session::messages::Join) {
        self.permit.join(join);
    }
}
