//! ConnectionLimiter in Redis. Each node writes what it holds, as absolute numbers, into a hash of its own, which lives as long as
//! the node's lease; a claim adds up the hashes of the nodes that live. So a dead node's places are free when its lease
//! ends, nothing has to be swept, and no count can drift.
//!
//! One queue keeps what this node writes in order. Where Redis is away, or has lost what it was told, the node takes a new
//! name and writes down all that it holds.

mod task;

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use futures_util::{FutureExt as _, future::BoxFuture};
use oriva_hub_actors::{
    model::{ConnectionCounts, NodeId, StreamKey},
    ports::{ConnectionLimiter, LimitReached},
};
use redis::{Pipeline, RedisResult};
use tokio::sync::{mpsc, oneshot};

pub use self::task::RedisLimiterParts;
use self::task::{KeyNames, Command};
use super::{Presence, Unknown};
use crate::redis_client::RedisClient;

/// Fields of a hash that are read at once.
const SCAN_COUNT: usize = 1000;

/// ConnectionLimiter over all nodes.
pub struct RedisConnectionLimiter {
    client: Arc<RedisClient>,
    commands_tx: mpsc::UnboundedSender<Command>,
    /// The name under which this node holds places now.
    own: Arc<RwLock<Option<NodeId>>>,
}

impl RedisConnectionLimiter {
    /// The handle, and what [`RedisLimiterParts::start`] makes places of.
    #[must_use]
    pub fn new(client: Arc<RedisClient>) -> (Arc<Self>, RedisLimiterParts) {
        let (commands_tx, commands_rx) = mpsc::unbounded_channel();
        let own = Arc::new(RwLock::default());
        let parts = RedisLimiterParts { client: client.clone(), commands_rx, own: own.clone() };
        (Arc::new(Self { client, commands_tx, own }), parts)
    }

    fn own(&self) -> Option<NodeId> {
        *self.own.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The other nodes that live.
    async fn others(&self) -> Result<Vec<String>, Unknown> {
        let names = KeyNames::new(&self.client);
        let mut pipeline = Pipeline::new();
        pipeline.cmd("TIME").cmd("ZRANGE").arg(&names.nodes).arg(0).arg(-1).arg("WITHSCORES");
        let ((seconds, micros), nodes): ((i64, i64), Vec<(String, f64)>) = self.query(&pipeline).await?;
        let now = (seconds * 1000 + micros / 1000) as f64;
        let own = self.own().ok_or(Unknown)?.to_string();
        Ok(nodes.into_iter().filter(|(node, until)| *until > now && *node != own).map(|(node, _)| node).collect())
    }

    async fn query<T: redis::FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, Unknown> {
        let pool = self.client.pool().ok_or(Unknown)?;
        let answer: RedisResult<T> = pool.query(pipeline).await;
        answer.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "places of other nodes unknown");
            Unknown
        })
    }
}

impl ConnectionLimiter for RedisConnectionLimiter {
    fn acquire(&self, stream: &StreamKey, own: &ConnectionCounts, limit: usize) -> BoxFuture<'static, Result<(), LimitReached>> {
        let (answer, answered) = oneshot::channel();
        let _ = self.commands_tx.send(Command::Acquire { stream: stream.clone(), own: own.clone(), limit, answer });
        // Where nobody answers, this node's own count decides, and that was looked at before.
        answered.map(|answer| answer.unwrap_or(Ok(()))).boxed()
    }

    fn set_count(&self, stream: &StreamKey, own: &ConnectionCounts) {
        let _ = self.commands_tx.send(Command::SetCount { stream: stream.clone(), own: own.clone() });
    }

    fn recount(&self) {
        let _ = self.commands_tx.send(Command::Recount);
    }
}

#[async_trait]
impl Presence for RedisConnectionLimiter {
    async fn elsewhere(&self, stream: &StreamKey) -> Result<Vec<ConnectionCounts>, Unknown> {
        let names = KeyNames::new(&self.client);
        let others = self.others().await?;
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::new();
        for node in &others {
            pipeline.cmd("HGET").arg(names.counts_key(node)).arg(task::field(stream));
        }
        let answers: Vec<Option<String>> = self.query(&pipeline).await?;
        Ok(answers.into_iter().flatten().filter_map(|text| ConnectionCounts::parse(&text).ok()).collect())
    }

    async fn users_elsewhere(&self, here: &HashSet<String>) -> Result<usize, Unknown> {
        let names = KeyNames::new(&self.client);
        let mut users = HashSet::new();
        for node in self.others().await? {
            let mut cursor = 0_u64;
            loop {
                let mut pipeline = Pipeline::new();
                let hash = names.counts_key(&node);
                pipeline.cmd("HSCAN").arg(hash).arg(cursor).arg("MATCH").arg("user:*").arg("COUNT").arg(SCAN_COUNT);
                let ((next, fields),): ((u64, Vec<(String, String)>),) = self.query(&pipeline).await?;
                for (field, _) in fields {
                    if let Some(id) = field.strip_prefix("user:")
                        && !here.contains(id)
                    {
                        users.insert(id.to_owned());
                    }
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(users.len())
    }

    async fn leave(&self) {
        let (done, is_done) = oneshot::channel();
        if self.commands_tx.send(Command::Leave(done)).is_ok() {
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), is_done).await;
        }
    }
}
