//! The handle to everybody who is online on this node. Users and apps are spread over threads; each thread has its
//! partition of the registry, the sessions of those who belong there, and a pump for their sockets.

use std::{
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    model::{AppId, ConnectionCounts, Identity, PublishedEvent, RevokedCredentials, StreamKey, WebhookId},
    ports::{Bus, Credentials, EventHistory, Expiry, ConnectionLimiter, DeliveryReceipts},
    protocol::{Close, ServerFrame},
    socket_loop::{SocketLoop, SocketLoopHandle, SocketBounds},
    registry::{
        Resync, CountsOf, Received, AcquireError, Observe, ConnectionPermit, Registry, RegistryState, Acquire, Route, StopAccepting, ConnectionSnapshot, SendFrame,
    },
    socket::{NewSocket, Purpose, Transport},
    supervise::keep_running,
};
use actix::{Actor, Addr, Arbiter, Handler, Message, dev::SendError};
use bytes::Bytes;

/// How often a partition looks after its registry.
const RESYNC_INTERVAL: Duration = Duration::from_millis(250);

/// What the realtime core is told of the configuration (section `stream`).
#[derive(Debug, Clone)]
pub struct RealtimeConfig {
    /// The store's own id.
    pub epoch: Arc<str>,
    /// Threads to spread users and apps over.
    pub shards: usize,
    /// ConnectionLimiter a user, or an app, may take.
    pub max_connections: usize,
    pub heartbeat: Duration,
    pub max_frame_bytes: usize,
    pub max_backlog_bytes: usize,
    /// Bytes from which an event is compressed for sockets that agreed on it; none where that is not offered.
    pub compress_from: Option<usize>,
}

/// What the realtime core needs from outside.
#[derive(Clone)]
pub struct Ports {
    pub history: Arc<dyn EventHistory>,
    pub credentials: Arc<dyn Credentials>,
    pub receipts: Arc<dyn DeliveryReceipts>,
    pub bus: Arc<dyn Bus>,
    pub limiter: Arc<dyn ConnectionLimiter>,
}

/// What one partition's actors share.
pub(crate) struct ShardContext {
    pub config: RealtimeConfig,
    pub history: Arc<dyn EventHistory>,
    pub credentials: Arc<dyn Credentials>,
    pub receipts: Arc<dyn DeliveryReceipts>,
    pub bus: Arc<dyn Bus>,
    /// ConnectionLimiter over all nodes.
    pub limiter: Arc<dyn ConnectionLimiter>,
    pub socket_loop: SocketLoopHandle,
    /// ConnectionLimiter taken here. A session lives as long as one is, longer than its sockets are open: while there are none, nothing
    /// needs to be routed here.
    pub connections: AtomicUsize,
}

/// Everybody who is online, behind one handle: on this node, and over the bus on the others. Cheap to clone.
#[derive(Clone)]
pub struct Realtime {
    shards: Arc<Vec<Shard>>,
    bus: Arc<dyn Bus>,
}

struct Shard {
    /// Replaced when the registry had to be built anew.
    registry: Arc<RwLock<Addr<Registry>>>,
    socket_loop: SocketLoopHandle,
    context: Arc<ShardContext>,
    /// Sockets open.
    open: Arc<AtomicUsize>,
    /// Something may not have been routed: the registry has to compare with the store.
    needs_resync: Arc<AtomicBool>,
}

/// A place that was taken for a socket to be.
pub struct ReservedConnection {
    permit: ConnectionPermit,
    socket_loop: SocketLoopHandle,
}

impl Realtime {
    /// Starts the threads. Must be called within a running actix `System`.
    #[must_use]
    pub fn start(config: &RealtimeConfig, ports: Ports) -> Self {
        let shards = (0..config.shards.max(1)).map(|_| {
            let socket_loop = SocketLoopHandle::default();
            let context = Arc::new(ShardContext {
                config: config.clone(),
                history: ports.history.clone(),
                credentials: ports.credentials.clone(),
                receipts: ports.receipts.clone(),
                bus: ports.bus.clone(),
                limiter: ports.limiter.clone(),
                socket_loop: socket_loop.clone(),
                connections: AtomicUsize::new(0),
            });
            Shard::start(context, socket_loop)
        });
        Self { shards: Arc::new(shards.collect()), bus: ports.bus }
    }

    fn index_of(&self, stream: &StreamKey) -> usize {
        let mut hasher = DefaultHasher::new();
        stream.hash(&mut hasher);
        (hasher.finish() % self.shards.len() as u64) as usize
    }

    fn shard_of(&self, stream: &StreamKey) -> &Shard {
        &self.shards[self.index_of(stream)]
    }

    /// Takes a connection place for this identity.
    ///
    /// # Errors
    /// [`AcquireError`] where all are taken, or this node takes no more.
    pub async fn acquire(&self, identity: &Identity) -> Result<ReservedConnection, AcquireError> {
        let stream = identity.stream();
        let shard = self.shard_of(&stream);
        let registry = shard.registry();
        let permit = registry.send(Acquire { stream, scope: identity.scope() }).await.map_err(|_| AcquireError::Draining)??;
        Ok(ReservedConnection { permit, socket_loop: shard.socket_loop.clone() })
    }

    /// Tells everybody concerned of events that are committed, in the order of commit. A hint: never waits, and what
    /// does not fit is healed from the store.
    pub fn publish(&self, events: &[Arc<PublishedEvent>]) {
        for shard in self.shards.iter() {
            let nobody_is_here = shard.context.connections.load(Ordering::SeqCst) == 0;
            let concerned = events.iter().filter(|event| {
                let event = event.event();
                // Every partition keeps its place in the broadcast stream, for whoever comes next.
                event.offsets.broadcast.is_some()
                    || !nobody_is_here
                        && (std::ptr::eq(self.shard_of(&StreamKey::App(event.app_id.clone())), shard)
                            || event
                                .user_id
                                .clone()
                                .is_some_and(|user| std::ptr::eq(self.shard_of(&StreamKey::User(user)), shard)))
            });
            shard.route(concerned.cloned().collect());
        }
        self.bus.publish(events);
    }

    /// Passes on what other nodes committed, each event with the one stream that it was heard on. A hint, as `publish`.
    pub fn receive(&self, events: Vec<(StreamKey, Arc<PublishedEvent>)>) {
        let mut by_partition: Vec<Vec<_>> = self.shards.iter().map(|_| Vec::new()).collect();
        for (stream, event) in events {
            if stream == StreamKey::Broadcast {
                by_partition.iter_mut().for_each(|heard| heard.push((StreamKey::Broadcast, event.clone())));
            } else {
                by_partition[self.index_of(&stream)].push((stream, event));
            }
        }
        for (shard, events) in self.shards.iter().zip(by_partition) {
            if !events.is_empty() {
                shard.hint(Received { events });
            }
        }
    }

    /// Passes on what is to be said to everybody of a stream on this node.
    pub fn send_frame(&self, stream: StreamKey, frame: Bytes) {
        // A hint that does not fit is not repeated.
        let _ = self.shard_of(&stream).registry().try_send(SendFrame { stream, frame });
    }

    /// Tells an app's sockets that one of its webhooks was disabled.
    pub fn tell_webhook_disabled(&self, app: &AppId, webhook: WebhookId, reason: &str) {
        let frame = ServerFrame::WebhookDisabled { webhook_id: webhook, reason }.encode();
        let stream = StreamKey::App(app.clone());
        self.bus.send_frame(&stream, &frame);
        // Where it does not fit, the webhook itself says why it is disabled.
        self.send_frame(stream, frame);
    }

    /// Has every session, here and on other nodes, compare itself with the store: something may be committed that nobody
    /// was told of.
    pub fn resync_all_nodes(&self) {
        self.resync();
        self.bus.request_resync();
    }

    /// Has every session of this node compare itself with the store, many streams a question.
    pub fn resync(&self) {
        for shard in self.shards.iter() {
            shard.needs_resync.store(true, Ordering::SeqCst);
        }
    }

    /// What a user or app holds on this node.
    pub async fn connection_counts(&self, stream: &StreamKey) -> ConnectionCounts {
        self.shard_of(stream).registry().send(CountsOf { stream: stream.clone() }).await.unwrap_or_default()
    }

    /// What every user and app holds on this node.
    pub async fn connection_snapshot(&self) -> Vec<(StreamKey, ConnectionCounts)> {
        let mut all = Vec::new();
        for shard in self.shards.iter() {
            all.extend(shard.registry().send(ConnectionSnapshot).await.unwrap_or_default());
        }
        all
    }

    /// Closes with 4003 the sockets of credentials that stopped being good.
    pub fn close_revoked(&self, refused: &Arc<RevokedCredentials>) {
        for shard in self.shards.iter() {
            shard.socket_loop.close_revoked(refused.clone());
        }
    }

    /// Takes no more places, and closes every socket with 1001 at a random moment within `over`.
    pub fn drain(&self, over: Duration) {
        for shard in self.shards.iter() {
            shard.registry().do_send(StopAccepting);
            shard.socket_loop.drain(over);
        }
    }

    /// Sockets open now.
    #[must_use]
    pub fn open_sockets(&self) -> usize {
        self.shards.iter().map(|shard| shard.open.load(Ordering::Relaxed)).sum()
    }

    /// What the registries say of themselves, added up.
    pub async fn observe(&self) -> RegistryState {
        let mut sum = RegistryState::default();
        for shard in self.shards.iter() {
            let registry = shard.registry();
            if let Ok(state) = registry.send(Observe).await {
                sum.sessions += state.sessions;
                sum.connections += state.connections;
                sum.users += state.users;
            }
        }
        sum
    }

    /// Closes a socket that was refused, after its upgrade, with the reason as its close code.
    pub fn close_refused(&self, transport: Transport, close: Close) {
        if let Some(shard) = self.shards.first() {
            let new_socket = NewSocket {
                transport,
                read_ahead: bytes::BytesMut::new(),
                deflate: false,
                purpose: Purpose::Reject(close),
            };
            shard.socket_loop.adopt(new_socket);
        }
    }

    /// Whether compressed messages are offered.
    #[must_use]
    pub fn compresses(&self) -> bool {
        self.shards.first().is_some_and(|shard| shard.context.config.compress_from.is_some())
    }

    /// Gives a socket back what it sends.
    #[cfg(feature = "echo")]
    pub fn echo(&self, transport: Transport, read_ahead: bytes::BytesMut, deflate: bool) {
        if let Some(shard) = self.shards.first() {
            shard.socket_loop.adopt(NewSocket { transport, read_ahead, deflate, purpose: Purpose::Echo });
        }
    }

    /// Has a socket that there is not join its session.
    #[cfg(feature = "testing")]
    pub(crate) fn join(&self, join: crate::registry::Join) {
        self.shard_of(&join.identity.stream()).registry().do_send(join);
    }

    /// Makes the session of this stream panic.
    #[cfg(any(test, feature = "testing"))]
    pub fn panic_session(&self, stream: StreamKey) {
        self.shard_of(&stream).registry().do_send(crate::registry::PanicSession { stream });
    }
}

impl ReservedConnection {
    /// Hands over the socket that the seat was taken for.
    pub fn attach(
        self,
        transport: Transport,
        read_ahead: bytes::BytesMut,
        deflate: bool,
        identity: Arc<Identity>,
        expiry: Option<Expiry>,
    ) {
        let purpose = Purpose::Follow { identity, permit: self.permit, expiry };
        self.socket_loop.adopt(NewSocket { transport, read_ahead, deflate, purpose });
    }
}

impl Shard {
    fn start(context: Arc<ShardContext>, socket_loop: SocketLoopHandle) -> Self {
        let arbiter = Arbiter::new().handle();
        let started = context.clone();
        let registry = Registry::start_in_arbiter(&arbiter, move |ctx| Registry::new(started, ctx));
        let shard = Self {
            registry: Arc::new(RwLock::new(registry)),
            socket_loop: socket_loop.clone(),
            context: context.clone(),
            open: Arc::new(AtomicUsize::new(0)),
            needs_resync: Arc::new(AtomicBool::new(false)),
        };
        let (registry, open) = (shard.registry.clone(), shard.open.clone());
        let bounds = SocketBounds::from_config(&context.config);
        let handle = socket_loop;
        arbiter.spawn(keep_running("pump", move || SocketLoop::new(&handle, registry.clone(), bounds, open.clone()).run()));
        arbiter.spawn(shard.supervise(context));
        shard
    }

    fn registry(&self) -> Addr<Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn route(&self, events: Vec<Arc<PublishedEvent>>) {
        if !events.is_empty() {
            self.hint(Route { events });
        }
    }

    fn hint<M>(&self, message: M)
    where
        M: Message<Result = ()> + Send + 'static,
        Registry: Handler<M>,
    {
        if let Err(SendError::Full(_)) = self.registry().try_send(message) {
            self.needs_resync.store(true, Ordering::SeqCst);
        }
    }

    /// Watches over the registry: builds it anew after its end, and has it heal what did not fit its mailbox.
    fn supervise(&self, context: Arc<ShardContext>) -> impl Future<Output = ()> + use<> {
        let (slot, needs_resync) = (self.registry.clone(), self.needs_resync.clone());
        async move {
            loop {
                tokio::time::sleep(RESYNC_INTERVAL).await;
                let registry = slot.read().unwrap_or_else(PoisonError::into_inner).clone();
                if !registry.connected() {
                    tracing::error!(
                        "registry ended; building it anew and closing its sockets: report it with the panic above"
                    );
                    *slot.write().unwrap_or_else(PoisonError::into_inner) = Registry::start(context.clone());
                    context.socket_loop.close_all(Close::Internal);
                    context.limiter.recount();
                } else if needs_resync.swap(false, Ordering::SeqCst) && registry.try_send(Resync).is_err() {
                    needs_resync.store(true, Ordering::SeqCst);
                }
            }
        }
    }
}
