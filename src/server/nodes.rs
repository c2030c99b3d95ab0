//! What connects a node to the others: nothing, or Redis.

use std::sync::Arc;

use oriva_hub_actors::{Realtime, Tasks, model::NodeId};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use secrecy::ExposeSecret as _;
use tokio::sync::{Notify, mpsc};

use crate::{
    bus::{BusEvent, LocalBus, NodeBus, RedisBus},
    config::{Config, ConfigError},
    presence::{LocalConnectionLimiter, PresenceDirectory, RedisConnectionLimiter, SnapshotRequest},
    redis_client::RedisClient,
};

/// The adapters between a node and the others, running.
pub(super) struct Nodes {
    /// This node, until it ends.
    pub node: NodeId,
    pub bus: Arc<dyn NodeBus>,
    pub presence: Arc<dyn PresenceDirectory>,
    /// Redis, where it is configured.
    pub redis: Option<Arc<RedisClient>>,
    /// What the bus learns and what the limiter asks, until [`connect`] takes them.
    inputs: Option<(mpsc::Receiver<BusEvent>, mpsc::Receiver<SnapshotRequest>)>,
}

/// The certificate of the authority that `redis.ca_file` names.
///
/// # Errors
/// Where it cannot be read, or is none.
pub(super) fn redis_authority(config: &Config) -> Result<Option<Vec<u8>>, ConfigError> {
    let Some(path) = &config.redis.ca_file else { return Ok(None) };
    let failed = |error: &dyn std::fmt::Display| ConfigError(format!("redis.ca_file: {}: {error}", path.display()));
    let pem = std::fs::read(path).map_err(|error| failed(&error))?;
    let first = CertificateDer::from_pem_slice(&pem).map(drop);
    first.map_err(|_| failed(&"must hold a certificate in PEM")).map(|()| Some(pem))
}

/// Starts the adapters.
///
/// # Errors
/// `redis.url` cannot be read.
pub(super) fn start(config: &Config, epoch: Arc<str>, tasks: &Tasks) -> Result<Nodes, ConfigError> {
    let node = NodeId::generate();
    let Some(url) = &config.redis.url else {
        let bus = Arc::new(LocalBus::new(config.is_embedded()));
        return Ok(Nodes { node, bus, presence: Arc::new(LocalConnectionLimiter), redis: None, inputs: None });
    };
    // The library's message may repeat the URL, and with it a password.
    let authority = redis_authority(config)?;
    let client = RedisClient::new(url.expose_secret(), authority, epoch)
        .map_err(|_| ConfigError("redis.url must be redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]".to_owned()))?;
    let client = Arc::new(client);
    let (bus, events) = RedisBus::start(client.clone(), node, tasks);
    let (presence, snapshots) = RedisConnectionLimiter::start(client.clone(), tasks);
    Ok(Nodes { node, bus, presence, redis: Some(client), inputs: Some((events, snapshots)) })
}

/// Passes on what the bus learns, and answers what the limiter asks. `credentials_changed` is notified when another node
/// says so.
pub(super) fn connect(nodes: &mut Nodes, realtime: &Realtime, credentials_changed: &Arc<Notify>, tasks: &Tasks) {
    let Some((events, snapshots)) = nodes.inputs.take() else { return };
    let inputs = Arc::new(tokio::sync::Mutex::new((events, snapshots)));
    let (realtime, credentials_changed, tasks) = (realtime.clone(), credentials_changed.clone(), tasks.clone());
    actix_rt::spawn(async move {
        let build = || {
            let (inputs, realtime, credentials_changed) =
                (inputs.clone(), realtime.clone(), credentials_changed.clone());
            async move {
                let (events, snapshots) = &mut *inputs.lock().await;
                loop {
                    tokio::select! {
                        event = events.recv() => match event {
                            Some(BusEvent::Events(events)) => realtime.receive(events),
                            Some(BusEvent::Frame(stream, frame)) => realtime.send_frame(stream, frame),
                            Some(BusEvent::Probe(stream)) => realtime.probe(stream),
                            Some(BusEvent::Resync) => realtime.resync(),
                            Some(BusEvent::CredentialsChanged) => credentials_changed.notify_one(),
                            None => return,
                        },
                        request = snapshots.recv() => match request {
                            Some(request) => {
                                let _ = request.send(realtime.connection_snapshot().await);
                            }
                            None => return,
                        },
                    }
                }
            }
        };
        tasks.keep_running("bus_events", build).await;
    });
}
