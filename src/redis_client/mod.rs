//! The Redis client of a node, for one server or a cluster (detected when it connects). All commands share one pipelined
//! connection. Queries with long answers use connections of their own, so that no command waits behind them.
//!
//! Key and channel names begin with the store's epoch. So hubs with different stores that share a Redis never see each
//! other's messages, and a store restored from a backup starts with empty counts.

mod connection;
mod pushes;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, PushInfo, RedisError,
    RedisResult, TlsCertificates, cluster::ClusterClientBuilder, io::tcp::TcpSettings,
};
use tokio::sync::Notify;

pub use connection::{Connection, Pool, Subscriber};
pub use pushes::{PushReceiver, PushSender, push_queue};

/// Time limit for opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for one command.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections in the pool for queries with long answers.
const POOLED: usize = 4;

/// Whether `url` is a Redis URL that this hub supports. `#insecure` is refused: certificates are always verified.
#[must_use]
pub fn is_url(url: &str) -> bool {
    let names_host = url.split_once("://").is_some_and(|(_, rest)| !rest.is_empty() && !rest.starts_with(['/', '?']));
    names_host && !url.ends_with("#insecure") && url.into_connection_info().is_ok()
}

/// Access to Redis, whether or not it is reachable now. The bus task connects and publishes the connections here; the
/// other users take what [`RedisClient::connection`] has at the moment and do without Redis while it is `None`.
pub struct RedisClient {
    info: ConnectionInfo,
    certificates: Option<TlsCertificates>,
    epoch: Arc<str>,
    current: RwLock<Option<(Connection, Pool)>>,
    changed: Notify,
}

/// All connections to one Redis, opened together by [`RedisClient::connect`].
pub struct RedisConnections {
    /// For publishing, shared by all.
    pub commands: Connection,
    /// For everything that waits for its answer.
    pub pool: Pool,
    /// For subscriptions.
    pub subscriber: Subscriber,
}

impl RedisClient {
    /// Parses the URL. Does not connect. `authority`: the certificate in PEM that the server's is signed by, where the
    /// system does not know it.
    ///
    /// # Errors
    /// `url` is not a Redis URL, or `authority` is no certificate, or there is no TLS that it would be for.
    pub fn new(url: &str, authority: Option<Vec<u8>>, epoch: Arc<str>) -> RedisResult<Self> {
        let info = url.into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp_settings());
        let certificates = authority.map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem) });
        let info = match &certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone())?.get_connection_info().clone(),
            None => info,
        };
        Ok(Self { info, certificates, epoch, current: RwLock::default(), changed: Notify::new() })
    }

    /// A key or channel name of this hub. In a cluster such names are spread over the servers.
    #[must_use]
    pub fn name(&self, rest: &str) -> String {
        format!("hub:{}:{rest}", self.epoch)
    }

    /// A key name with the hub's hash tag: a cluster keeps all of these on one server, as scripts over several keys need.
    #[must_use]
    pub fn name_together(&self, rest: &str) -> String {
        format!("{{hub:{}}}:{rest}", self.epoch)
    }

    /// The connection for commands; `None` while Redis is unreachable.
    #[must_use]
    pub fn connection(&self) -> Option<Connection> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|(connection, _)| connection.clone())
    }

    /// The pool for queries with long answers; `None` while Redis is unreachable.
    #[must_use]
    pub fn pool(&self) -> Option<Pool> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|(_, pool)| pool.clone())
    }

    /// Publishes new connections to all users, or `None` when Redis was lost.
    pub fn set(&self, now: Option<(Connection, Pool)>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = now;
        self.changed.notify_one();
    }

    /// Completes at the next call of [`RedisClient::set`]. Wakes one waiter only.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Opens new connections. Pub/sub messages go to `pushes`; `dropped` is called for each one that does not fit there.
    ///
    /// # Errors
    /// Redis is unreachable or refuses the connection.
    pub async fn connect(
        &self,
        pushes: PushSender,
        dropped: impl Fn() + Send + Sync + 'static,
    ) -> RedisResult<RedisConnections> {
        let push = move |push: PushInfo| {
            if !pushes.send(push) {
                dropped();
            }
            Ok::<(), std::convert::Infallible>(())
        };
        let client = Client::open(self.info.clone())?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let mut commands = client.get_multiplexed_async_connection_with_config(&config).await?;
        // A Redis user without the right to INFO is treated as connected to a single server.
        let about: RedisResult<String> = redis::cmd("INFO").arg("cluster").query_async(&mut commands).await;
        let about = match about {
            Ok(about) => about,
            // No answer is not a refusal: a cluster's server must not be mistaken for a single one.
            Err(error) if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => {
                return Err(error);
            }
            Err(_) => String::new(),
        };
        if about.contains("cluster_enabled:1") {
            let builder = || {
                let builder = ClusterClientBuilder::new([self.info.clone()])
                    .use_protocol(ProtocolVersion::RESP3)
                    .tcp_settings(tcp_settings())
                    .connection_timeout(CONNECT_TIMEOUT)
                    .response_timeout(RESPONSE_TIMEOUT)
                    .retries(1);
                match &self.certificates {
                    Some(certificates) => builder.certs(certificates.clone()),
                    None => builder,
                }
            };
            return Ok(RedisConnections {
                commands: Connection::Cluster(builder().build()?.get_async_connection().await?),
                pool: Pool::Cluster(builder().build()?.get_async_connection().await?),
                subscriber: Subscriber::Cluster(builder().push_sender(push).build()?.get_async_connection().await?),
            });
        }
        let config = config.set_push_sender(push);
        Ok(RedisConnections {
            commands: Connection::Single(commands),
            pool: Pool::single(self.info.clone(), POOLED)?,
            subscriber: Subscriber::Single(client.get_multiplexed_async_connection_with_config(&config).await?),
        })
    }
}

/// Without Nagle's algorithm: over TLS a message is several records, and the last would wait for an acknowledgement.
fn tcp_settings() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// A pool's error as a Redis error.
fn pool_failed(error: impl std::fmt::Display) -> RedisError {
    RedisError::from((redis::ErrorKind::Io, "no pooled connection", error.to_string()))
}
