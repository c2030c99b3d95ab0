//! The composition root: the only place that names concrete adapters. `Server::build(config)` → `.addr()` →
//! `.run_until_stopped(stop)`.

mod first_run;
mod nodes;
mod store_lock;
mod tls;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use actix_cors::Cors;
use actix_http::HttpService;
use actix_server::ServerHandle;
use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, fn_service, map_config};
use actix_tls::accept::rustls_0_23::reexports::ServerConfig;
use actix_web::{
    App, Error,
    dev::AppConfig,
    middleware::{Condition, from_fn},
    web::Data,
};
use oriva_hub_actors::{
    Ports, Realtime, RealtimeConfig, WebhookConfig, Webhooks,
    ports::{Deliveries, WebhookSender},
};
use tokio::time::Instant;

use self::{nodes::Nodes, store_lock::StoreLock};
use crate::{
    auth::{Authenticator, Sealer},
    config::{Config, ConfigError, Secrets},
    http::{MaxBodyBytes, TrustedProxies, openapi, routes, stream, request_context},
    hub::{
        ReceiptBuffer, Hub, HubError, OutboxConfig, StoreHistory, StoreOutbox, WebhookParts, Writer,
        reseal_secrets,
    },
    limits::Limits,
    metrics,
    outbound::{Guard, HttpSender},
    store::{
        Store, StoreError,
        postgres::{self, PostgresStore},
        sqlite::SqliteStore,
    },
    workers::{
        self, Archiver, DeliveryReceiptWriter, IdempotencyPurge, IdentityWatch, KeyUsage, NodeBeats, NotificationExpiry,
        OutboxWatch, WebhookRecovery,
    },
};

/// Connections that the kernel holds for a hub that is busy: a storm of reconnects.
const ACCEPT_BACKLOG: i32 = 4096;
const KEEP_ALIVE: Duration = Duration::from_secs(75);
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Closes a draining hub spreads a second: fewer sockets need less than the whole window.
const CLOSES_A_SECOND: f64 = 200.0;
/// How much longer than an attempt a claimed delivery is its node's own: time to write down how it went.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// How often deliveries of nodes that are gone are looked for.
const LEASE_CHECK: Duration = Duration::from_secs(5);
/// The safety net (seed task T037); due times drive the deliveries.
const WEBHOOK_SWEEP: Duration = Duration::from_secs(60);
/// Time for answers that are made to be written.
const LAST_WRITES: Duration = Duration::from_millis(200);
/// What of the window is left for answers to the closes and for requests in flight.
const DRAIN_SHARE: f64 = 0.8;

/// Why a hub did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("store")]
    Store(#[from] StoreError),
    #[error("first run")]
    FirstRun(#[from] HubError),
    #[error("server.bind (--bind): cannot listen on {0}")]
    Bind(SocketAddr, #[source] std::io::Error),
    #[error("database.url: {} is served by another hub; several nodes take PostgreSQL and Redis", .0.display())]
    Served(PathBuf),
    #[error("database.url: {}", .0.display())]
    Lock(PathBuf, #[source] std::io::Error),
    #[error("server")]
    Http(#[from] std::io::Error),
}

/// Opens the configured store. An embedded one brings its schema up to date by itself.
///
/// # Errors
/// Where it cannot be opened.
pub async fn open_store(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    let database = &config.database;
    if let Some(file) = config.embedded_file() {
        let opened = async {
            let store = SqliteStore::open(&database.url, database.max_connections).await?;
            store.migrate().await?;
            Ok(store)
        };
        let store = opened.await.map_err(|error| StoreError::File(file, Box::new(error)))?;
        Ok(Arc::new(store))
    } else {
        Ok(Arc::new(PostgresStore::new(&database.url, database.max_connections)?))
    }
}

/// A node, built and listening, not yet serving.
pub struct Server {
    hub: Arc<Hub>,
    store: Arc<dyn Store>,
    auth: Arc<Authenticator>,
    receipts: Arc<ReceiptBuffer>,
    http: actix_server::Server,
    addr: SocketAddr,
    window: Duration,
    /// Where the store is an embedded one.
    _sole: Option<StoreLock>,
}

impl Server {
    /// Builds every part. Must be called within a running actix `System`.
    ///
    /// # Errors
    /// [`ServeError`], by part.
    pub async fn build(config: &Config, migrate: bool) -> Result<Self, ServeError> {
        raise_file_limit();
        metrics::start();
        // What is most often wrong first, before anything runs that would have to be stopped again.
        let tls = tls::load(&config.server.tls)?;
        let socket = bind(config.server.bind)?;
        let store_lock = config.embedded_file().map(|file| StoreLock::acquire(&file)).transpose()?;
        let store = open_store(config).await?;
        let secrets = secrets(config, &*store).await?;
        if migrate {
            store.migrate().await?;
        }
        store.check_schema().await?;
        let auth = Arc::new(Authenticator::new(store.clone(), &secrets));
        let receipts = Arc::new(ReceiptBuffer::default());
        let epoch = store.epoch().await?;
        let nodes = Nodes::new(config, epoch.clone())?;
        let ports = Ports {
            history: Arc::new(StoreHistory::new(store.clone())),
            credentials: auth.clone(),
            receipts: receipts.clone(),
            bus: nodes.parts.bus.clone(),
            limiter: nodes.parts.presence.clone(),
        };
        let online = Realtime::start(&realtime(config, epoch), ports);
        let limits = Limits::new(config.rate_limits.clone(), nodes.client.clone());
        let (nodes, credentials) = nodes.start(&online);
        let webhooks = start_webhooks(config, &secrets, &store, &online).await?;
        let writer = Writer::start(store.clone(), online.clone(), webhooks.actors.clone());
        let hub = Arc::new(Hub::new(store.clone(), auth.clone(), limits, writer, online, webhooks, nodes));
        socket.listen(ACCEPT_BACKLOG).map_err(|error| ServeError::Bind(config.server.bind, error))?;
        let listener = TcpListener::from(socket);
        let addr = listener.local_addr()?;
        if config.is_embedded() {
            first_run::greet(&hub, config, addr).await?;
        }
        let http = serve_http(config, hub.clone(), listener, tls)?;
        workers::spawn(&store, IdentityWatch::new(store.clone(), hub.clone(), credentials));
        workers::spawn(&store, KeyUsage::new(store.clone(), auth.clone()));
        workers::spawn(&store, IdempotencyPurge::new(store.clone()));
        workers::spawn(&store, NotificationExpiry::new(store.clone(), hub.clone(), &config.expiry));
        workers::spawn(&store, DeliveryReceiptWriter::new(store.clone(), receipts.clone()));
        workers::spawn(&store, WebhookRecovery::new(hub.clone()));
        workers::spawn(&store, OutboxWatch::new(store.clone()));
        workers::spawn(&store, Archiver::new(store.clone(), &config.retention, hub.next_expiry()));

        if !config.is_embedded() {
            workers::spawn(&store, NodeBeats::new(store.clone(), hub.clone()));
        }
        tracing::info!(%addr, tls = config.server.tls.cert.is_some(), embedded = config.is_embedded(), "listening");
        let window = Duration::from_secs(config.server.shutdown_timeout_seconds);
        Ok(Self { hub, store, auth, receipts, http, addr, window, _sole: store_lock })
    }

    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    #[must_use]
    pub fn hub(&self) -> Arc<Hub> {
        self.hub.clone()
    }

    /// Serves until `stop` completes; then refuses new work, closes the sockets spread over the window, lets requests
    /// in flight finish, and returns.
    ///
    /// # Errors
    /// Where the HTTP server ends by itself.
    pub async fn run_until_stopped(self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let handle = self.http.handle();
        let serving = actix_rt::spawn(self.http);
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => {
                return ended.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(ServeError::Http);
            }
            () = stop => {}
        }
        tracing::info!(sockets = self.hub.online().open_sockets(), "stopping");
        drain(&self.hub, self.window).await;
        stop_http(&handle, &self.hub, self.window).await;
        let _ = serving.await;
        for worker in [
            &mut KeyUsage::new(self.store.clone(), self.auth) as &mut dyn workers::Worker,
            &mut DeliveryReceiptWriter::new(self.store.clone(), self.receipts),
        ] {
            if let Err(error) = worker.run_once().await {
                tracing::warn!(worker = worker.name(), error = &error as &dyn std::error::Error, "not written down");
            }
        }
        self.hub.leave(&*self.store).await;
        self.store.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// The node's secrets. That a store lost the file of its own is told.
async fn secrets(config: &Config, store: &dyn Store) -> Result<Secrets, ServeError> {
    let missing = Secrets::file(config).filter(|file| !file.exists());
    let secrets = Secrets::resolve(config)?;
    if let Some(file) = missing
        && !store.apps().await?.is_empty()
    {
        tracing::warn!(
            file = %file.display(),
            "the secrets of this store were gone and are made anew: user tokens and the admin key of before are refused, and \
             webhook secrets cannot be opened; if there is a copy of the file, stop, put it back and start again"
        );
    }
    Ok(secrets)
}

fn realtime(config: &Config, epoch: Arc<str>) -> RealtimeConfig {
    RealtimeConfig {
        epoch,
        shards: config.threads(),
        max_connections: config.stream.max_connections,
        heartbeat: Duration::from_secs(config.stream.heartbeat_seconds),
        max_frame_bytes: config.stream.max_frame_bytes,
        max_backlog_bytes: config.stream.max_backlog_bytes,
        compress_from: config.stream.compression.then_some(config.stream.compression_min_bytes),
    }
}

/// The webhook actors and what stands around them.
async fn start_webhooks(
    config: &Config,
    secrets: &Secrets,
    store: &Arc<dyn Store>,
    online: &Realtime,
) -> Result<WebhookParts, ServeError> {
    let settings = &config.webhooks;
    let keys = std::iter::once(&secrets.encryption_key).chain(&secrets.previous_encryption_keys);
    let sealer = Arc::new(Sealer::new(keys).map_err(|error| ConfigError(error.to_string()))?);
    let resealed = reseal_secrets(&**store, &sealer).await?;
    if resealed > 0 {
        tracing::info!(count = resealed, "webhook secrets sealed anew under auth.encryption_key");
    }
    let deadline = Duration::from_secs(settings.timeout_seconds);
    let guard = Guard::new(settings.allow_http, &settings.allowed_networks);
    let sender = HttpSender::new(guard.clone(), deadline).map_err(|error| std::io::Error::other(error.to_string()))?;
    let sender: Arc<dyn WebhookSender> = Arc::new(sender);
    let outbox = OutboxConfig { lease: deadline + LEASE_MARGIN, disable_after: settings.disable_after_failures };
    let deliveries: Arc<dyn Deliveries> =
        Arc::new(StoreOutbox::new(store.clone(), sealer.clone(), online.clone(), outbox));
    let actors = WebhookConfig {
        concurrency: settings.concurrency_per_endpoint,
        sweep: WEBHOOK_SWEEP,
        lease_check: LEASE_CHECK,
    };
    Ok(WebhookParts {
        sealer,
        actors: Webhooks::start(actors, deliveries, sender.clone()),
        sender,
        disable_after: settings.disable_after_failures,
        check_url: Arc::new(move |text| guard.webhook_url(text)),
    })
}

/// Takes an address, at which nobody is answered yet.
fn bind(addr: SocketAddr) -> Result<socket2::Socket, ServeError> {
    let bind = || {
        let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        Ok(socket)
    };
    bind().map_err(|error| ServeError::Bind(addr, error))
}

/// Reads what the settings name, without connecting anywhere: the database's address, the certificate and its key.
///
/// # Errors
/// Which setting is at fault, and why.
pub fn check_parts(config: &Config) -> Result<(), ServeError> {
    if !config.is_embedded() {
        postgres::options(&config.database.url)?;
    }
    tls::load(&config.server.tls)?;
    Ok(())
}

/// The OpenAPI document of what a node serves, in JSON or in YAML.
///
/// # Errors
/// Where it cannot be encoded.
pub fn api_document(json: bool) -> Result<String, String> {
    if json { openapi::json_text() } else { openapi::yaml() }
}

/// The HTTP server, its routes for requests and the stream for upgrades, over TCP or TLS.
macro_rules! http_service {
    ($config:expr, $hub:expr) => {{
        let (hub, config): (Arc<Hub>, Config) = ($hub.clone(), $config.clone());
        let upgrade = hub.clone();
        let app = App::new()
            .app_data(Data::from(hub))
            .app_data(Data::new(MaxBodyBytes(config.server.max_body_bytes)))
            .app_data(Data::new(TrustedProxies::new(&config.server.trusted_proxies)))
            .configure(routes)
            .wrap(Condition::new(!config.server.cors.allowed_origins.is_empty(), cors(&config)))
            .wrap(from_fn(request_context));
        HttpService::build()
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(REQUEST_HEAD_TIMEOUT)
            .client_disconnect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true)
            .upgrade(fn_service(move |pair| {
                let served = stream::upgrade(upgrade.clone(), pair);
                async move { served.await.map_err(Error::from) }
            }))
            .finish(map_config(app.into_factory().map_err(|error: Error| error.error_response()), |_| {
                AppConfig::default()
            }))
    }};
}

fn serve_http(
    config: &Config,
    hub: Arc<Hub>,
    listener: TcpListener,
    tls: Option<ServerConfig>,
) -> Result<actix_server::Server, ServeError> {
    let builder = actix_server::Server::build()
        .workers(config.threads())
        .max_concurrent_connections(100_000)
        .shutdown_timeout(config.server.shutdown_timeout_seconds)
        .disable_signals();
    let config = config.clone();
    let builder = match tls {
        None => builder.listen("http", listener, move || http_service!(config, hub).tcp())?,
        Some(tls) => builder.listen("https", listener, move || http_service!(config, hub).rustls_0_23(tls.clone()))?,
    };
    Ok(builder.run())
}

fn cors(config: &Config) -> Cors {
    let cors = Cors::default().allow_any_method().allow_any_header().expose_any_header().max_age(3600);
    config.server.cors.allowed_origins.iter().fold(cors, |cors, origin| match origin.as_str() {
        "*" => cors.allow_any_origin(),
        origin => cors.allowed_origin(origin),
    })
}

/// Closes the sockets, spread so that their clients do not all come to the next node at once.
async fn drain(hub: &Hub, window: Duration) {
    let sockets = hub.online().open_sockets();
    let needed = Duration::from_secs_f64(sockets as f64 / CLOSES_A_SECOND);
    hub.drain(needed.min(window.mul_f64(DRAIN_SHARE)));
    let end = Instant::now() + window;
    while (hub.online().open_sockets() > 0 || hub.deliveries_in_flight().await > 0) && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends when no request is being answered any more. Connections that are merely kept alive are not waited for.
async fn stop_http(handle: &ServerHandle, hub: &Hub, window: Duration) {
    let end = Instant::now() + window;
    while hub.requests_in_flight() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The last answers are on their way to the kernel.
    tokio::time::sleep(LAST_WRITES).await;
    handle.stop(false).await;
}

/// Every socket is an open file. Where the system allows fewer, the operator is told what to set.
fn raise_file_limit() {
    const WANTED: u64 = 1_048_576;
    match rlimit::increase_nofile_limit(WANTED) {
        Ok(limit) if limit < 65_536 => tracing::warn!(
            limit,
            "few open files allowed, and every socket is one: raise it (ulimit -n, or LimitNOFILE= of the service)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "limit of open files could not be raised"),
    }
}
