//! The hub of one node: its parts, and what concerns all of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use oriva_hub_actors::{Realtime, Tasks};
use tokio::sync::Notify;

use super::{
    apps_store::Apps,
    clock::Clock,
    counting::CountingWatch,
    counts::CountCache,
    next_expiry::NextExpiry,
    peers::{Cluster, Peers},
    webhook_services::WebhookServices,
    write_state::WriteState,
    writer::Writer,
};
use crate::{auth::Authenticator, limits::Limits, metrics::Figures, store::Store};

/// How long the store may take to answer a readiness probe.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// The parts that a hub is built from.
pub struct Adapters {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Verifies credentials.
    pub auth: Arc<Authenticator>,
    /// Rate limits.
    pub limits: Limits,
    /// Writes events and what they tell of.
    pub writer: Writer,
    /// Users and apps that are online.
    pub realtime: Realtime,
    /// What delivers to webhooks.
    pub webhooks: WebhookServices,
    /// The other nodes.
    pub cluster: Cluster,
    /// The store's epoch when this node began.
    pub epoch: Arc<str>,
    /// The long-lived tasks of this node.
    pub tasks: Tasks,
}

/// The hub of one node: everything that handlers and workers call.
pub struct Hub {
    pub(super) store: Arc<dyn Store>,
    pub(super) apps: Apps,
    pub(super) auth: Arc<Authenticator>,
    limits: Limits,
    pub(super) writer: Writer,
    pub(super) realtime: Realtime,
    pub(super) counts: CountCache,
    pub(super) next_expiry: Arc<NextExpiry>,
    pub(super) webhooks: WebhookServices,
    pub(super) cluster: Cluster,
    pub(super) peers: Peers,
    pub(super) clock: Clock,
    pub(super) counting: CountingWatch,
    /// Notified when a recovery is started on this node.
    pub(super) recovery_started: Notify,
    pub(super) epoch: Arc<str>,
    epoch_changed: Notify,
    tasks: Tasks,
    is_stopping: AtomicBool,
    is_draining: AtomicBool,
    refuses_work: AtomicBool,
    requests: Arc<AtomicUsize>,
}

/// A request that is being answered, counted until this is dropped.
pub struct TrackedRequest(Arc<AtomicUsize>);

impl Drop for TrackedRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Hub {
    /// Puts the parts together.
    #[must_use]
    pub fn new(adapters: Adapters) -> Self {
        let Adapters { store, auth, limits, writer, realtime, webhooks, cluster, epoch, tasks } = adapters;
        Self {
            apps: Apps::new(store.clone()),
            store,
            auth,
            limits,
            writer,
            realtime,
            counts: CountCache::default(),
            next_expiry: Arc::default(),
            webhooks,
            cluster,
            peers: Peers::default(),
            clock: Clock::default(),
            counting: CountingWatch::default(),
            recovery_started: Notify::new(),
            epoch,
            epoch_changed: Notify::new(),
            tasks,
            is_stopping: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            refuses_work: AtomicBool::new(false),
            requests: Arc::default(),
        }
    }

    /// Verifies credentials.
    #[must_use]
    pub fn auth(&self) -> &Authenticator {
        &self.auth
    }

    /// The rate limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// When the expiry worker must run next.
    #[must_use]
    pub fn next_expiry(&self) -> Arc<NextExpiry> {
        self.next_expiry.clone()
    }

    /// Who is online.
    #[must_use]
    pub fn realtime(&self) -> &Realtime {
        &self.realtime
    }

    /// Apps and keys.
    #[must_use]
    pub fn apps(&self) -> &Apps {
        &self.apps
    }

    /// Whether requests can be served.
    ///
    /// # Errors
    /// The name of the part that fails.
    pub async fn ready(&self) -> Result<(), &'static str> {
        if self.is_stopping.load(Ordering::SeqCst) {
            return Err("draining");
        }
        if let Some(task) = self.tasks.down() {
            return Err(task);
        }
        if !self.writer.state().is_good() {
            return Err("store");
        }
        match tokio::time::timeout(READY_TIMEOUT, self.store.ping()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err("store"),
        }
    }

    /// The long-lived tasks.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// What delivers to webhooks.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn webhooks(&self) -> &oriva_hub_actors::Webhooks {
        &self.webhooks.actors
    }

    /// Whether the store takes writes.
    #[must_use]
    pub fn write_state(&self) -> WriteState {
        self.writer.state()
    }

    /// Compares the store's epoch with the one that this node began with.
    pub fn check_epoch(&self, current: &str) {
        if *self.epoch != *current {
            self.epoch_changed.notify_one();
        }
    }

    /// Completes when the store has another epoch: offsets that this node knows mean other events from then on.
    pub async fn epoch_changed(&self) {
        self.epoch_changed.notified().await;
    }

    /// Is not ready from now on, so that balancers send new work elsewhere, but serves what comes.
    pub fn announce_stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
    }

    /// Opens no more sockets from now on, lets every connection end with its next answer, and closes every socket at a
    /// random moment within `over`.
    pub fn drain(&self, over: Duration) {
        self.announce_stop();
        self.is_draining.store(true, Ordering::SeqCst);
        self.realtime.drain(over);
        self.webhooks.actors.drain();
    }

    /// Refuses requests from now on: nothing stands before this node that would send them elsewhere.
    pub fn refuse_work(&self) {
        self.refuses_work.store(true, Ordering::SeqCst);
    }

    /// Whether requests are refused because the hub stops.
    #[must_use]
    pub fn refuses_work(&self) -> bool {
        self.refuses_work.load(Ordering::SeqCst)
    }

    /// Whether connections are to end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Counts a request until the returned value is dropped.
    #[must_use]
    pub fn track_request(&self) -> TrackedRequest {
        self.requests.fetch_add(1, Ordering::SeqCst);
        TrackedRequest(self.requests.clone())
    }

    /// Requests being answered.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// A request passed its deadline. The host of a database connection may have vanished.
    pub fn request_timed_out(&self) {
        self.store.suspect_connections();
    }

    /// Deliveries to webhooks that this node has in flight.
    pub async fn deliveries_in_flight(&self) -> usize {
        self.webhooks.actors.observe().await.in_flight
    }

    /// The gauges of `/metrics`, which are read when they are asked for.
    pub async fn figures(&self) -> Figures {
        let pool = self.store.pool();
        Figures {
            sockets: self.realtime.open_sockets(),
            sessions: self.realtime.observe().await.sessions,
            bus: self.cluster.bus.state(),
            writer_queue_events: self.writer.waiting(),
            store_connections_idle: pool.idle,
            store_connections_in_use: pool.size.saturating_sub(pool.idle),
            store_log_bytes: self.store.log_bytes(),
            deliveries_in_flight: self.deliveries_in_flight().await,
        }
    }
}
