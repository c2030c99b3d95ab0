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

    /// Tries every command that the hub needs, on names that only this uses.
    ///
    /// # Errors
    /// Which command failed, and why, with what to do.
    pub async fn examine(&self) -> Result<RedisFacts, String> {
        let (pushes, _pushed) = push_queue();
        let connected = self.connect(pushes, || {}).await;
        let RedisConnections { mut commands, subscriber, .. } =
            connected.map_err(|error| format!("cannot connect: {error}"))?;
        let (one, many) = (self.name("one"), self.name_together("many"));
        let (set, channel) = (self.name_together("set"), self.name("channel"));
        for line in [
            format!("SET {one} 1 PX 10000"),
            format!("GET {one}"),
            format!("PTTL {one}"),
            format!("HSET {many} a 1"),
            format!("HGET {many} a"),
            format!("HEXISTS {many} a"),
            format!("HSCAN {many} 0"),
            format!("HDEL {many} b"),
            format!("PEXPIRE {many} 10000"),
            format!("ZADD {set} 1 a"),
            format!("PEXPIRE {set} 10000"),
            format!("ZSCORE {set} a"),
            format!("ZRANGE {set} 0 -1"),
            format!("ZRANGEBYSCORE {set} 0 1"),
            format!("ZREMRANGEBYSCORE {set} 5 6"),
            format!("ZCOUNT {set} 0 1"),
            format!("ZREM {set} a"),
            format!("EVAL return(redis.call('TIME')) 1 {set}"),
            "TIME".to_owned(),
            "PING".to_owned(),
            "UNWATCH".to_owned(),
            format!("UNLINK {one}"),
            format!("UNLINK {many}"),
            format!("UNLINK {set}"),
        ] {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default().to_owned();
            let mut command = redis::cmd(&name);
            words.for_each(|word| {
                command.arg(word);
            });
            command.query_async::<redis::Value>(&mut commands).await.map_err(|error| advice(&name, &error))?;
        }
        let channels = [channel.clone()];
        subscriber.subscribe(&channels).await.map_err(|error| advice("SUBSCRIBE", &error))?;
        commands.publish(&[(channel, Vec::new())]).await.map_err(|error| advice("PUBLISH", &error))?;
        subscriber.unsubscribe(&channels).await.map_err(|error| advice("UNSUBSCRIBE", &error))?;
        // A cluster would answer for each of its servers.
        let single = Client::open(self.info.clone()).map_err(|error| format!("cannot connect: {error}"))?;
        let single = single.get_multiplexed_async_connection().await;
        let mut single = single.map_err(|error| format!("cannot connect: {error}"))?;
        let about = redis::cmd("INFO").query_async::<String>(&mut single).await;
        Ok(RedisFacts::read(&about.map_err(|error| advice("INFO", &error))?))
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

/// What a Redis says of itself, for its operator.
#[derive(Debug, Clone)]
pub struct RedisFacts {
    /// Its version.
    pub server: String,
    /// What works, and should be looked at, each with what to do.
    pub concerns: Vec<String>,
}

impl RedisFacts {
    fn read(about: &str) -> Self {
        let value = |name: &str| about.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let mut concerns = Vec::new();
        if value("maxmemory:") != "0" && value("maxmemory_policy:") != "noeviction" {
            let policy = value("maxmemory_policy:");
            concerns.push(format!(
                "maxmemory-policy is {policy}, which forgets counts when memory is short: use noeviction"
            ));
        }
        if value("role:") == "slave" {
            concerns.push("it is a replica, which takes no writes: lead redis.url to its primary".to_owned());
        }
        Self { server: format!("Redis {}", value("redis_version:")), concerns }
    }
}

/// Why a command failed, and what to do.
fn advice(command: &str, error: &RedisError) -> String {
    let advice =
        if error.code() == Some("NOPERM") { ": give the user the rights of docs/LOAD_BALANCING.md" } else { "" };
    format!("{command} fails: {error}{advice}")
}

/// Without Nagle's algorithm: over TLS a message is several records, and the last would wait for an acknowledgement.
fn tcp_settings() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// A pool's error as a Redis error.
fn pool_failed(error: impl std::fmt::Display) -> RedisError {
    RedisError::from((redis::ErrorKind::Io, "no pooled connection", error.to_string()))
}
