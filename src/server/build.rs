//! The parts of a node, each made from the configuration.

use std::{sync::Arc, time::Duration};

use oriva_hub_actors::{
    Realtime, RealtimeConfig, Tasks, WebhookConfig, Webhooks,
    ports::{Deliveries, WebhookSender},
};

use super::{error::ServeError, tls};
use crate::{
    auth::Sealer,
    config::{Config, ConfigError, Secrets},
    hub::{OutboxConfig, StoreOutbox, WebhookServices, reseal_secrets},
    outbound::{Guard, HttpSender},
    store::{
        Store, StoreError,
        postgres::{self, PostgresStore},
        sqlite::SqliteStore,
    },
};

/// How much longer than an attempt a claimed delivery stays claimed: time to record the outcome.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// How often deliveries of nodes that are gone are searched for.
const LEASE_CHECK: Duration = Duration::from_secs(5);
/// How often due deliveries are searched for of which no nudge came (seed task T037).
const WEBHOOK_SWEEP: Duration = Duration::from_secs(60);

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

/// Reads what the settings name, without connecting anywhere: the database's address, the certificate and its key.
///
/// # Errors
/// Which setting is at fault, and why.
pub fn check_parts(config: &Config) -> Result<(), ServeError> {
    if !config.is_embedded() {
        postgres::options(&config.database.url)?;
    }
    tls::load(&config.server.tls)?;
    super::nodes::redis_authority(config)?;
    Ok(())
}

/// The node's secrets. That a store lost the file of its own is told.
pub(super) async fn secrets(config: &Config, store: &dyn Store) -> Result<Secrets, ServeError> {
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

/// The settings of the realtime core.
pub(super) fn realtime_config(config: &Config, epoch: Arc<str>) -> RealtimeConfig {
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
pub(super) async fn start_webhooks(
    config: &Config,
    secrets: &Secrets,
    store: &Arc<dyn Store>,
    realtime: &Realtime,
    tasks: &Tasks,
) -> Result<WebhookServices, ServeError> {
    let settings = &config.webhooks;
    let keys = std::iter::once(&secrets.encryption_key).chain(&secrets.previous_encryption_keys);
    let sealer = Arc::new(Sealer::new(keys).map_err(|error| ConfigError(error.to_string()))?);
    let resealed = reseal_secrets(&**store, &sealer).await?;
    if resealed > 0 {
        tracing::info!(count = resealed, "webhook secrets sealed anew under auth.encryption_key");
    }
    if config.is_embedded() {
        // Nobody else serves this store: whoever has deliveries under a lease is gone, and they need not wait for its end.
        store.free_all_leases().await?;
    }
    let deadline = Duration::from_secs(settings.timeout_seconds);
    let guard = Guard::new(settings.allow_http, &settings.allowed_networks);
    let name_servers: Vec<_> = settings.name_servers.iter().filter_map(|server| server.parse().ok()).collect();
    let sender = HttpSender::new(guard.clone(), deadline, &name_servers)?;
    let sender: Arc<dyn WebhookSender> = Arc::new(sender);
    let outbox = OutboxConfig { lease: deadline + LEASE_MARGIN, disable_after: settings.disable_after_failures };
    let outbox = StoreOutbox::new(store.clone(), sealer.clone(), realtime.clone(), outbox);
    let unreadable_secrets = outbox.unreadable_secrets();
    let deliveries: Arc<dyn Deliveries> = Arc::new(outbox);
    let actors = WebhookConfig {
        concurrency: settings.concurrency_per_endpoint,
        sweep: WEBHOOK_SWEEP,
        lease_check: LEASE_CHECK,
    };
    Ok(WebhookServices {
        sealer,
        actors: Webhooks::start(actors, deliveries, sender.clone(), tasks),
        sender,
        disable_after: settings.disable_after_failures,
        unreadable_secrets,
        max_per_app: settings.max_per_app,
        check_url: Arc::new(move |text| guard.webhook_url(text)),
    })
}

/// Every socket is an open file. Where the system allows fewer, the operator is told what to set.
pub(super) fn raise_file_limit() {
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
