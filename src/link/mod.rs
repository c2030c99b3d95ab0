//! The way to Redis: one server or a cluster, found out when it is opened. Commands of the whole node share one pipelined
//! connection; questions that answer much have a pool of their own.
//!
//! Names in Redis begin with the store's epoch, so that hubs with different stores never hear of each other, and a store
//! that was put back from a backup begins anew.

mod connection;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, PushInfo, RedisError,
    RedisResult, cluster::ClusterClientBuilder,
};
use tokio::sync::{Notify, mpsc};

pub use connection::{Connection, Pool, Subscriber};

/// What a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What a command may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections for questions.
const POOLED: usize = 4;

/// Whether this can be read as the URL of a Redis, and names nothing that this hub does not do.
#[must_use]
pub fn is_url(url: &str) -> bool {
    let names_host = url.split_once("://").is_some_and(|(_, rest)| !rest.is_empty() && !rest.starts_with(['/', '?']));
    // Certificates are always verified.
    names_host && !url.ends_with("#insecure") && url.into_connection_info().is_ok()
}

/// Redis, whether or not it answers now. Cheap to share; [`Link::connection`] is whatever is good at the moment.
pub struct Link {
    info: ConnectionInfo,
    epoch: Arc<str>,
    current: RwLock<Option<(Connection, Pool)>>,
    changed: Notify,
}

/// What was opened: for the keeper of the link (see `bus`).
pub struct Opened {
    pub commands: Connection,
    pub pool: Pool,
    pub subscriber: Subscriber,
}

impl Link {
    /// Reads the URL; opens nothing yet.
    ///
    /// # Errors
    /// Where it is no Redis URL.
    pub fn new(url: &str, epoch: Arc<str>) -> RedisResult<Self> {
        let info = url.into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Ok(Self { info: info.set_redis_settings(settings), epoch, current: RwLock::default(), changed: Notify::new() })
    }

    /// A name of this hub's own. In a cluster, names spread over the servers.
    #[must_use]
    pub fn name(&self, rest: &str) -> String {
        format!("hub:{}:{rest}", self.epoch)
    }

    /// A name that one server keeps together with all others made so: for scripts over several keys.
    #[must_use]
    pub fn name_together(&self, rest: &str) -> String {
        format!("{{hub:{}}}:{rest}", self.epoch)
    }

    /// The connection for commands, while there is one that answers.
    #[must_use]
    pub fn connection(&self) -> Option<Connection> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|(connection, _)| connection.clone())
    }

    /// The connections for questions, while there are any.
    #[must_use]
    pub fn pool(&self) -> Option<Pool> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|(_, pool)| pool.clone())
    }

    /// From now on everybody uses this, or nothing.
    pub fn set(&self, now: Option<(Connection, Pool)>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = now;
        self.changed.notify_one();
    }

    /// Returns when the connections became others. For one who waits.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Opens all connections anew. What is pushed to the subscriber goes to `pushes`; what does not fit there is counted
    /// by `lost`.
    ///
    /// # Errors
    /// Where Redis is away, or refuses.
    pub async fn open(
        &self,
        pushes: mpsc::Sender<PushInfo>,
        lost: impl Fn() + Send + Sync + 'static,
    ) -> RedisResult<Opened> {
        let push = move |push: PushInfo| {
            if let Err(mpsc::error::TrySendError::Full(_)) = pushes.try_send(push) {
                lost();
            }
            Ok::<(), std::convert::Infallible>(())
        };
        let client = Client::open(self.info.clone())?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let mut commands = client.get_multiplexed_async_connection_with_config(&config).await?;
        // Who may not ask is not refused for it: a user with few rights is told nothing of clusters.
        let about: RedisResult<String> = redis::cmd("INFO").arg("cluster").query_async(&mut commands).await;
        let about = match about {
            Ok(about) => about,
            // It was not refused: a cluster's server that did not answer must not be taken for one that is alone.
            Err(error) if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => {
                return Err(error);
            }
            Err(_) => String::new(),
        };
        if about.contains("cluster_enabled:1") {
            let builder = || {
                ClusterClientBuilder::new([self.info.clone()])
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(CONNECT_TIMEOUT)
                    .response_timeout(RESPONSE_TIMEOUT)
                    .retries(1)
            };
            return Ok(Opened {
                commands: Connection::Cluster(builder().build()?.get_async_connection().await?),
                pool: Pool::cluster([self.info.clone()], POOLED)?,
                subscriber: Subscriber::Cluster(builder().push_sender(push).build()?.get_async_connection().await?),
            });
        }
        let config = config.set_push_sender(push);
        Ok(Opened {
            commands: Connection::Single(commands),
            pool: Pool::single(self.info.clone(), POOLED)?,
            subscriber: Subscriber::Single(client.get_multiplexed_async_connection_with_config(&config).await?),
        })
    }
}

/// What a pool's failure says.
fn pool_failed(error: impl std::fmt::Display) -> RedisError {
    RedisError::from((redis::ErrorKind::Io, "no pooled connection", error.to_string()))
}
