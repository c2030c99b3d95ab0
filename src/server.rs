//! The composition root: the only place that names concrete adapters. `Server::build(config)` → `.addr()` →
//! `.run_until_stopped(stop)`.

mod build;
mod checkup;
mod connection;
mod drain;
mod error;
mod first_run;
mod http;
mod nodes;
mod store_lock;
mod tls;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use oriva_hub_actors::{Ports, Realtime, Tasks};
use tokio::sync::Notify;

use self::store_lock::StoreLock;
use crate::{
    auth::Authenticator,
    config::Config,
    hub::{Adapters, Cluster, Hub, ReceiptBuffer, StoreHistory, Writer},
    limits::Limits,
    metrics,
    store::Store,
    workers::{
        Archiver, DeliveryReceiptWriter, IdempotencyPurge, IdentityWatch, KeyUsage, NodeBeats, NotificationExpiry,
        OutboxWatch, WebhookRecovery, Worker, Workers, WriteWatch,
    },
};

use self::drain::Windows;
pub use build::{check_parts, open_store};
pub use checkup::{Finding, Verdict, examine};
pub use error::ServeError;
pub use http::api_document;

/// Connections that the kernel accepts for a busy hub: a storm of reconnects.
const ACCEPT_BACKLOG: i32 = 4096;

/// In which time a node whose store has another epoch ends.
const EPOCH_WINDOW: Duration = Duration::from_secs(2);

/// Why a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// The store has another epoch. Nothing that the node remembers means what it did: another one has to begin.
    EpochChanged,
}

/// A node, built and listening, not serving yet.
pub struct Server {
    hub: Arc<Hub>,
    store: Arc<dyn Store>,
    auth: Arc<Authenticator>,
    receipts: Arc<ReceiptBuffer>,
    http: actix_server::Server,
    addr: SocketAddr,
    windows: Windows,
    /// Held where the store is embedded.
    _store_lock: Option<StoreLock>,
}

impl Server {
    /// Builds every part. Must be called within a running actix `System`.
    ///
    /// # Errors
    /// [`ServeError`], which names the part.
    pub async fn build(config: &Config, migrate: bool) -> Result<Self, ServeError> {
        build::raise_file_limit();
        metrics::start();
        // The settings that are most often wrong come first, before anything runs that would have to be stopped again.
        let tls = tls::load(&config.server.tls)?;
        let socket = http::bind(config.server.bind)?;
        let store_lock = config.embedded_file().map(|file| StoreLock::acquire(&file)).transpose()?;
        let store = open_store(config).await?;
        let secrets = build::secrets(config, &*store).await?;
        if migrate {
            store.migrate().await?;
        }
        store.check_schema().await?;

        let tasks = Tasks::default();
        let auth = Arc::new(Authenticator::new(store.clone(), &secrets));
        let receipts = Arc::new(ReceiptBuffer::default());
        let credentials_changed = Arc::new(Notify::new());
        let epoch = store.epoch().await?;
        let mut nodes = nodes::start(config, epoch.clone(), &tasks)?;
        let realtime_config = build::realtime_config(config, epoch.clone());
        let ports = Ports {
            history: Arc::new(StoreHistory::new(store.clone(), realtime_config.page_limit())),
            credentials: auth.clone(),
            receipts: receipts.clone(),
            bus: nodes.bus.clone(),
            limiter: nodes.presence.clone(),
        };
        let realtime = Realtime::start(&realtime_config, &ports, &tasks);
        nodes::connect(&mut nodes, &realtime, &credentials_changed, &tasks);
        let webhooks = build::start_webhooks(config, &secrets, &store, &realtime, &tasks).await?;
        let hub = Arc::new(Hub::new(Adapters {
            store: store.clone(),
            auth: auth.clone(),
            limits: Limits::new(config.rate_limits.clone(), nodes.redis),
            writer: Writer::start(&store, &realtime, &webhooks.actors, epoch.clone(), config.log.events, &tasks),
            realtime,
            webhooks,
            cluster: Cluster { node: nodes.node, bus: nodes.bus, presence: nodes.presence },
            epoch,
            tasks: tasks.clone(),
        }));

        socket.listen(ACCEPT_BACKLOG).map_err(|error| ServeError::Bind(config.server.bind, error))?;
        let listener = TcpListener::from(socket);
        let addr = listener.local_addr()?;
        if config.is_embedded() {
            first_run::greet(&hub, config, addr).await?;
        }
        let http = http::serve_http(config, hub.clone(), listener, tls)?;

        let workers = Workers::new(store.clone(), tasks);
        workers.spawn(IdentityWatch::new(store.clone(), hub.clone(), credentials_changed));
        workers.spawn(KeyUsage::new(store.clone(), auth.clone()));
        workers.spawn(IdempotencyPurge::new(store.clone()));
        workers.spawn(NotificationExpiry::new(store.clone(), hub.clone(), &config.expiry));
        workers.spawn(DeliveryReceiptWriter::new(store.clone(), receipts.clone()));
        workers.spawn(WebhookRecovery::new(hub.clone()));
        workers.spawn(OutboxWatch::new(store.clone()));
        workers.spawn(WriteWatch::new(store.clone(), hub.write_state()));
        workers.spawn(Archiver::new(store.clone(), &config.retention, hub.next_expiry()));
        if !config.is_embedded() {
            workers.spawn(NodeBeats::new(store.clone(), hub.clone()));
        }
        tracing::info!(%addr, tls = config.server.tls.cert.is_some(), embedded = config.is_embedded(), "listening");
        let windows = Windows {
            notice: Duration::from_secs(config.server.drain_delay_seconds),
            drain: Duration::from_secs(config.server.shutdown_timeout_seconds),
        };
        Ok(Self { hub, store, auth, receipts, http, addr, windows, _store_lock: store_lock })
    }

    /// The address in use; its port is the one the system chose where `server.bind` has port 0.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The hub that is served.
    #[must_use]
    pub fn hub(&self) -> Arc<Hub> {
        self.hub.clone()
    }

    /// Serves until `stop` completes, or the store has another epoch. Then refuses new work, closes the sockets spread over
    /// the shutdown window, lets requests in flight finish, and returns.
    ///
    /// # Errors
    /// The HTTP server ended by itself.
    pub async fn run_until_stopped(self, stop: impl Future<Output = ()>) -> Result<End, ServeError> {
        let handle = self.http.handle();
        let serving = actix_rt::spawn(self.http);
        tokio::pin!(serving);
        let (end, windows) = tokio::select! {
            ended = &mut serving => {
                let ended = ended.unwrap_or_else(|error| Err(std::io::Error::other(error)));
                return Err(ServeError::Http(ended.err().unwrap_or_else(|| std::io::Error::other("it ended"))));
            }
            () = stop => (End::Stopped, self.windows),
            () = self.hub.epoch_changed() => {
                tracing::warn!("the store has another epoch; the node begins anew, and clients are told to reload");
                // Offsets mean other events now: nobody gets any under the old epoch for long.
                (End::EpochChanged, Windows { notice: Duration::ZERO, drain: self.windows.drain.min(EPOCH_WINDOW) })
            }
        };
        tracing::info!(sockets = self.hub.realtime().open_sockets(), "stopping");
        tokio::select! {
            () = drain::give_notice(&self.hub, windows) => {}
            // Nothing is served under an epoch that is over.
            () = self.hub.epoch_changed() => {}
        }
        if windows.notice.is_zero() {
            // New requests get 503.
            self.hub.refuse_work();
        } else {
            // New connections are refused, so a balancer sends any request to another node. Requests on open connections are
            // served.
            drop(handle.stop(true));
        }
        drain::drain(&self.hub, windows).await;
        drop(handle.stop(false));
        for worker in [
            &mut KeyUsage::new(self.store.clone(), self.auth) as &mut dyn Worker,
            &mut DeliveryReceiptWriter::new(self.store.clone(), self.receipts),
        ] {
            if let Err(error) = worker.run_once().await {
                tracing::warn!(worker = worker.name(), error = &error as &dyn std::error::Error, "last run failed");
            }
        }
        self.hub.leave(&*self.store).await;
        self.store.close().await;
        tracing::info!("stopped");
        Ok(end)
    }
}
