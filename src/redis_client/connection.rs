//! Connections to one Redis server or to a cluster, behind the same types.

use futures_util::{StreamExt as _, stream};
use redis::{
    Cmd, ConnectionInfo, Pipeline, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster_async::ClusterConnection,
};

use super::{RESPONSE_TIMEOUT, pool_failed};

/// Channels of one SUBSCRIBE command.
const CHANNELS: usize = 512;
/// Commands in flight to a cluster; each channel needs its own, because channels live on different servers.
const AT_ONCE: usize = 64;

/// A connection for commands. Clones share it, and what they send is pipelined in the order of sending.
#[derive(Clone)]
pub enum Connection {
    /// To one server.
    Single(MultiplexedConnection),
    /// To a cluster.
    Cluster(ClusterConnection),
}

impl Connection {
    /// Publishes messages in order, each to its channel.
    ///
    /// # Errors
    /// Redis did not accept all of them.
    pub async fn publish(&mut self, messages: &[(String, Vec<u8>)]) -> RedisResult<()> {
        match self {
            Self::Single(connection) => {
                let mut pipeline = Pipeline::with_capacity(messages.len());
                for (channel, message) in messages {
                    pipeline.cmd("PUBLISH").arg(channel).arg(message).ignore();
                }
                pipeline.query_async(connection).await
            }
            Self::Cluster(connection) => {
                let published =
                    stream::iter(messages).map(|(channel, message)| {
                        let mut connection = connection.clone();
                        async move {
                            redis::cmd("SPUBLISH").arg(channel).arg(message).query_async::<()>(&mut connection).await
                        }
                    });
                let mut published = published.buffered(AT_ONCE);
                while let Some(outcome) = published.next().await {
                    outcome?;
                }
                Ok(())
            }
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// The connection that receives pub/sub messages.
#[derive(Clone)]
pub enum Subscriber {
    /// To one server.
    Single(MultiplexedConnection),
    /// To a cluster.
    Cluster(ClusterConnection),
}

impl Subscriber {
    /// Whether this is a cluster, where each channel lives on one server (sharded pub/sub).
    #[must_use]
    pub fn is_sharded(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Subscribes, and returns when the server has confirmed every channel.
    ///
    /// # Errors
    /// The server did not confirm them.
    pub async fn subscribe(&self, channels: &[String]) -> RedisResult<()> {
        match self {
            Self::Single(connection) => {
                for some in channels.chunks(CHANNELS) {
                    connection.clone().subscribe(some).await?;
                }
                Ok(())
            }
            Self::Cluster(connection) => {
                let commands = stream::iter(channels).map(|channel| {
                    let mut connection = connection.clone();
                    async move { connection.ssubscribe(channel).await }
                });
                complete_all(commands.buffer_unordered(AT_ONCE)).await
            }
        }
    }

    /// Unsubscribes, and returns when the server has confirmed every channel.
    ///
    /// # Errors
    /// The server did not confirm them.
    pub async fn unsubscribe(&self, channels: &[String]) -> RedisResult<()> {
        match self {
            Self::Single(connection) => {
                for some in channels.chunks(CHANNELS) {
                    connection.clone().unsubscribe(some).await?;
                }
                Ok(())
            }
            Self::Cluster(connection) => {
                let commands = stream::iter(channels).map(|channel| {
                    let mut connection = connection.clone();
                    async move { connection.sunsubscribe(channel).await }
                });
                complete_all(commands.buffer_unordered(AT_ONCE)).await
            }
        }
    }
}

async fn complete_all(mut outcomes: impl stream::Stream<Item = RedisResult<()>> + Unpin) -> RedisResult<()> {
    while let Some(outcome) = outcomes.next().await {
        outcome?;
    }
    Ok(())
}

/// Pooled connections for queries with long answers, so that no command waits behind them.
#[derive(Clone)]
pub enum Pool {
    /// To one server.
    Single(deadpool_redis::Pool),
    /// To a cluster. Its client has a connection to each server, apart from those for commands.
    Cluster(ClusterConnection),
}

impl Pool {
    pub(super) fn single(info: ConnectionInfo, size: usize) -> RedisResult<Self> {
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(super::CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let manager = deadpool_redis::Manager::new_with_config(info, config)?;
        let pool = deadpool_redis::Pool::builder(manager)
            .max_size(size)
            .runtime(deadpool_redis::Runtime::Tokio1)
            .wait_timeout(Some(RESPONSE_TIMEOUT))
            .create_timeout(Some(super::CONNECT_TIMEOUT))
            .recycle_timeout(Some(RESPONSE_TIMEOUT))
            .build()
            .map_err(pool_failed)?;
        Ok(Self::Single(pool))
    }

    /// Runs a pipeline and returns its answers.
    ///
    /// # Errors
    /// Redis did not answer within twice the command time limit, or refused.
    pub async fn query<T: redis::FromRedisValue>(&self, pipeline: &Pipeline) -> RedisResult<T> {
        let answer = async {
            match self {
                Self::Single(pool) => pipeline.query_async(&mut pool.get().await.map_err(pool_failed)?).await,
                Self::Cluster(connection) => pipeline.query_async(&mut connection.clone()).await,
            }
        };
        match tokio::time::timeout(2 * RESPONSE_TIMEOUT, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }
}
