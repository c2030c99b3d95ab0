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
    model::{AppId, Identity, Published, Refused, StreamKey, WebhookId},
    ports::{Credentials, EventHistory, Expiry, Witness},
    protocol::{Close, ServerFrame},
    pump::{Pump, PumpHandle, SocketBounds},
    registry::{CatchUp, NoPlace, Observe, Place, Registry, RegistryState, Reserve, Route, TakeNoMore, Tell},
    socket::{Handed, Purpose, Transport},
    supervise::keep_running,
};
use actix::{Actor, Addr, Arbiter, dev::SendError};

/// How often a partition looks after its registry.
const MENDING: Duration = Duration::from_millis(250);

/// What the realtime core is told of the configuration (section `stream`).
#[derive(Debug, Clone)]
pub struct RealtimeConfig {
    /// The store's own id.
    pub epoch: Arc<str>,
    /// Threads to spread users and apps over.
    pub partitions: usize,
    /// Places a user, or an app, may take.
    pub max_connections: usize,
    pub heartbeat: Duration,
    pub max_frame_bytes: usize,
    pub max_backlog_bytes: usize,
    /// How often sessions compare themselves with the store, where others write to it and nobody tells of it.
    pub poll: Option<Duration>,
}

/// What one partition's actors share.
pub(crate) struct Wiring {
    pub config: RealtimeConfig,
    pub history: Arc<dyn EventHistory>,
    pub credentials: Arc<dyn Credentials>,
    pub witness: Arc<dyn Witness>,
    pub pump: PumpHandle,
    /// Places taken. A session lives as long as one is, longer than its sockets are open: while there are none, nothing
    /// needs to be routed here.
    pub places: AtomicUsize,
}

/// Everybody who is online on this node, behind one handle. Cheap to clone.
#[derive(Clone)]
pub struct Partitions(Arc<Vec<Partition>>);

struct Partition {
    /// Replaced when the registry had to be built anew.
    registry: Arc<RwLock<Addr<Registry>>>,
    pump: PumpHandle,
    wiring: Arc<Wiring>,
    /// Sockets open.
    open: Arc<AtomicUsize>,
    /// Something may not have been routed: the registry has to compare with the store.
    lost_one: Arc<AtomicBool>,
}

/// A place that was taken for a socket to be.
pub struct Seat {
    place: Place,
    pump: PumpHandle,
}

impl Partitions {
    /// Starts the threads. Must be called within a running actix `System`.
    #[must_use]
    pub fn start(
        config: &RealtimeConfig,
        history: &Arc<dyn EventHistory>,
        credentials: &Arc<dyn Credentials>,
        witness: &Arc<dyn Witness>,
    ) -> Self {
        let partitions = (0..config.partitions.max(1)).map(|_| {
            let pump = PumpHandle::default();
            let wiring = Arc::new(Wiring {
                config: config.clone(),
                history: history.clone(),
                credentials: credentials.clone(),
                witness: witness.clone(),
                pump: pump.clone(),
                places: AtomicUsize::new(0),
            });
            Partition::start(wiring, pump)
        });
        Self(Arc::new(partitions.collect()))
    }

    fn of(&self, stream: &StreamKey) -> &Partition {
        let mut hasher = DefaultHasher::new();
        stream.hash(&mut hasher);
        &self.0[(hasher.finish() % self.0.len() as u64) as usize]
    }

    /// Takes a connection place for this identity.
    ///
    /// # Errors
    /// [`NoPlace`] where all are taken, or this node takes no more.
    pub async fn reserve(&self, identity: &Identity) -> Result<Seat, NoPlace> {
        let stream = identity.stream();
        let partition = self.of(&stream);
        let registry = partition.registry();
        let place = registry.send(Reserve { stream }).await.map_err(|_| NoPlace::Closed)??;
        Ok(Seat { place, pump: partition.pump.clone() })
    }

    /// Tells everybody concerned of events that are committed, in the order of commit. A hint: never waits, and what
    /// does not fit is healed from the store.
    pub fn publish(&self, events: &[Arc<Published>]) {
        for partition in self.0.iter() {
            let nobody_is_here = partition.wiring.places.load(Ordering::SeqCst) == 0;
            let concerned = events.iter().filter(|event| {
                let event = event.event();
                // Every partition keeps its place in the broadcast stream, for whoever comes next.
                event.offsets.broadcast.is_some()
                    || !nobody_is_here
                        && (std::ptr::eq(self.of(&StreamKey::App(event.app_id.clone())), partition)
                            || event
                                .user_id
                                .clone()
                                .is_some_and(|user| std::ptr::eq(self.of(&StreamKey::User(user)), partition)))
            });
            partition.route(concerned.cloned().collect());
        }
    }

    /// Tells an app's sockets that one of its webhooks was disabled.
    pub fn tell_webhook_disabled(&self, app: &AppId, webhook: WebhookId, reason: &str) {
        let frame = ServerFrame::WebhookDisabled { webhook_id: webhook, reason }.encode();
        let stream = StreamKey::App(app.clone());
        // A hint that does not fit is not repeated: the webhook itself says why it is disabled.
        let _ = self.of(&stream).registry().try_send(Tell { stream, frame });
    }

    /// Has every session compare itself with the store: something may be committed that nobody was told of.
    pub fn catch_up(&self) {
        for partition in self.0.iter() {
            partition.lost_one.store(true, Ordering::SeqCst);
        }
    }

    /// Closes with 4003 the sockets of credentials that stopped being good.
    pub fn refuse(&self, refused: &Arc<Refused>) {
        for partition in self.0.iter() {
            partition.pump.refuse(refused.clone());
        }
    }

    /// Takes no more places, and closes every socket with 1001 at a random moment within `over`.
    pub fn drain(&self, over: Duration) {
        for partition in self.0.iter() {
            partition.registry().do_send(TakeNoMore);
            partition.pump.drain(over);
        }
    }

    /// Sockets open now.
    #[must_use]
    pub fn open_sockets(&self) -> usize {
        self.0.iter().map(|partition| partition.open.load(Ordering::Relaxed)).sum()
    }

    /// What the registries say of themselves, added up.
    pub async fn observe(&self) -> RegistryState {
        let mut sum = RegistryState::default();
        for partition in self.0.iter() {
            let registry = partition.registry();
            if let Ok(state) = registry.send(Observe).await {
                sum.sessions += state.sessions;
                sum.places += state.places;
            }
        }
        sum
    }

    /// Closes a socket that was refused, after its upgrade, with the reason as its close code.
    pub fn turn_away(&self, transport: Transport, close: Close) {
        if let Some(partition) = self.0.first() {
            let handed = Handed { transport, read_ahead: bytes::BytesMut::new(), purpose: Purpose::Refuse(close) };
            partition.pump.adopt(handed);
        }
    }

    /// Gives a socket back what it sends.
    #[cfg(feature = "echo")]
    pub fn echo(&self, transport: Transport, read_ahead: bytes::BytesMut) {
        if let Some(partition) = self.0.first() {
            partition.pump.adopt(Handed { transport, read_ahead, purpose: Purpose::Echo });
        }
    }

    /// Makes the session of this stream panic.
    #[cfg(any(test, feature = "testing"))]
    pub fn panic_session(&self, stream: StreamKey) {
        self.of(&stream).registry().do_send(crate::registry::PanicSession { stream });
    }
}

impl Seat {
    /// Hands over the socket that the seat was taken for.
    pub fn sit(
        self,
        transport: Transport,
        read_ahead: bytes::BytesMut,
        identity: Arc<Identity>,
        expiry: Option<Expiry>,
    ) {
        let purpose = Purpose::Follow { identity, place: self.place, expiry };
        self.pump.adopt(Handed { transport, read_ahead, purpose });
    }
}

impl Partition {
    fn start(wiring: Arc<Wiring>, pump: PumpHandle) -> Self {
        let arbiter = Arbiter::new().handle();
        let started = wiring.clone();
        let registry = Registry::start_in_arbiter(&arbiter, move |ctx| Registry::new(started, ctx));
        let partition = Self {
            registry: Arc::new(RwLock::new(registry)),
            pump: pump.clone(),
            wiring: wiring.clone(),
            open: Arc::new(AtomicUsize::new(0)),
            lost_one: Arc::new(AtomicBool::new(false)),
        };
        let (registry, open) = (partition.registry.clone(), partition.open.clone());
        let bounds = SocketBounds::of(&wiring.config);
        let handle = pump;
        arbiter.spawn(keep_running("pump", move || Pump::new(&handle, registry.clone(), bounds, open.clone()).run()));
        arbiter.spawn(partition.mend(wiring));
        partition
    }

    fn registry(&self) -> Addr<Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn route(&self, events: Vec<Arc<Published>>) {
        if events.is_empty() {
            return;
        }
        if let Err(SendError::Full(_)) = self.registry().try_send(Route { events }) {
            self.lost_one.store(true, Ordering::SeqCst);
        }
    }

    /// Watches over the registry: builds it anew after its end, and has it heal what did not fit its mailbox.
    fn mend(&self, wiring: Arc<Wiring>) -> impl Future<Output = ()> + use<> {
        let (slot, lost_one) = (self.registry.clone(), self.lost_one.clone());
        async move {
            loop {
                tokio::time::sleep(MENDING).await;
                let registry = slot.read().unwrap_or_else(PoisonError::into_inner).clone();
                if !registry.connected() {
                    tracing::error!("registry ended; building it anew and closing its sockets");
                    *slot.write().unwrap_or_else(PoisonError::into_inner) = Registry::start(wiring.clone());
                    wiring.pump.close_all(Close::Internal);
                } else if lost_one.swap(false, Ordering::SeqCst) && registry.try_send(CatchUp).is_err() {
                    lost_one.store(true, Ordering::SeqCst);
                }
            }
        }
    }
}
