//! Connection counts in Redis. Each node writes what it holds, as absolute numbers, into a hash of its own, which lives as
//! long as the node's lease. A new connection is permitted by adding up the hashes of all living nodes. So a dead node's
//! connections stop counting when its lease ends, nothing has to be swept, and no count can drift.
//!
//! One queue keeps what this node writes in order. Where Redis fails, or has lost what it was told, the node takes a new
//! name and writes everything that it holds.

mod scripts;
mod task;

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt as _, future::BoxFuture};
use oriva_hub_actors::{
    Tasks,
    model::{ConnectionCounts, NodeId, StreamKey},
    ports::{ConnectionLimiter, LimitReached},
};
use redis::{Pipeline, RedisResult};
use tokio::sync::{mpsc, oneshot};

use self::{
    scripts::{KeyNames, field},
    task::{Command, RedisLimiterTask},
};
use super::{Counting, PresenceDirectory, SnapshotRequest, Unknown};
use crate::redis_client::RedisClient;

/// Fields of a hash that one HSCAN reads.
const SCAN_COUNT: usize = 1000;
/// How long a stopping node waits for its counts to be given back.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Connection counts over all nodes.
pub struct RedisConnectionLimiter {
    client: Arc<RedisClient>,
    commands: mpsc::UnboundedSender<Command>,
    /// The name under which this node's counts are written now.
    name: Arc<RwLock<Option<NodeId>>>,
    /// Other nodes that count in the same place, at the last renewal.
    others: Arc<AtomicUsize>,
}

impl RedisConnectionLimiter {
    /// Starts counting. Whoever has the receiver answers its requests with what this node holds.
    #[must_use]
    pub fn start(client: Arc<RedisClient>, tasks: &Tasks) -> (Arc<Self>, mpsc::Receiver<SnapshotRequest>) {
        let (commands, commands_rx) = mpsc::unbounded_channel();
        let (snapshots, requests) = mpsc::channel(1);
        let name = Arc::new(RwLock::default());
        let others = Arc::<AtomicUsize>::default();
        let task = RedisLimiterTask::new(client.clone(), commands_rx, snapshots, name.clone(), others.clone());
        task.start(tasks.clone());
        (Arc::new(Self { client, commands, name, others }), requests)
    }

    /// The names of the other nodes whose leases run.
    async fn names_of_others(&self) -> Result<Vec<String>, Unknown> {
        let keys = KeyNames::new(&self.client);
        let mut pipeline = Pipeline::new();
        pipeline.cmd("TIME").cmd("ZRANGE").arg(&keys.nodes).arg(0).arg(-1).arg("WITHSCORES");
        let ((seconds, micros), nodes): ((i64, i64), Vec<(String, f64)>) = self.query(&pipeline).await?;
        let now = (seconds * 1000 + micros / 1000) as f64;
        let own = self.name.read().unwrap_or_else(PoisonError::into_inner).ok_or(Unknown)?.to_string();
        Ok(nodes.into_iter().filter(|(node, until)| *until > now && *node != own).map(|(node, _)| node).collect())
    }

    async fn query<T: redis::FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, Unknown> {
        let pool = self.client.pool().ok_or(Unknown)?;
        let answer: RedisResult<T> = pool.query(pipeline).await;
        answer.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "connections of other nodes unknown");
            Unknown
        })
    }
}

impl ConnectionLimiter for RedisConnectionLimiter {
    fn acquire(
        &self,
        stream: &StreamKey,
        own: &ConnectionCounts,
        limit: usize,
    ) -> BoxFuture<'static, Result<(), LimitReached>> {
        let (answer, answered) = oneshot::channel();
        let _ = self.commands.send(Command::Acquire { stream: stream.clone(), own: own.clone(), limit, answer });
        // Where nobody answers, this node's own count decides, and the registry has checked that already.
        answered.map(|answer| answer.unwrap_or(Ok(()))).boxed()
    }

    fn set_count(&self, stream: &StreamKey, own: &ConnectionCounts) {
        let _ = self.commands.send(Command::SetCount { stream: stream.clone(), own: own.clone() });
    }

    fn recount(&self) {
        let _ = self.commands.send(Command::Recount);
    }
}

#[async_trait]
impl PresenceDirectory for RedisConnectionLimiter {
    async fn elsewhere(&self, stream: &StreamKey) -> Result<Vec<ConnectionCounts>, Unknown> {
        let keys = KeyNames::new(&self.client);
        let others = self.names_of_others().await?;
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::new();
        for node in &others {
            pipeline.cmd("HGET").arg(keys.counts_of(node)).arg(field(stream));
        }
        let answers: Vec<Option<String>> = self.query(&pipeline).await?;
        Ok(answers.into_iter().flatten().filter_map(|text| ConnectionCounts::parse(&text).ok()).collect())
    }

    async fn users_elsewhere(&self, here: &HashSet<String>) -> Result<usize, Unknown> {
        let keys = KeyNames::new(&self.client);
        let mut users = HashSet::new();
        for node in self.names_of_others().await? {
            let mut cursor = 0_u64;
            loop {
                let mut pipeline = Pipeline::new();
                let key = keys.counts_of(&node);
                pipeline.cmd("HSCAN").arg(key).arg(cursor).arg("MATCH").arg("user:*").arg("COUNT").arg(SCAN_COUNT);
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

    fn counting(&self) -> Counting {
        let is_registered = self.name.read().unwrap_or_else(PoisonError::into_inner).is_some();
        let others = self.others.load(Ordering::Relaxed);
        if is_registered { Counting::Shared { others } } else { Counting::Failing }
    }

    async fn leave(&self) {
        let (done, is_done) = oneshot::channel();
        if self.commands.send(Command::Leave(done)).is_ok() {
            let _ = tokio::time::timeout(LEAVE_TIMEOUT, is_done).await;
        }
    }
}
