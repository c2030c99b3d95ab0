//! Writes down what this node holds, in the order in which it changed, and renews the lease under which that counts.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use oriva_hub_actors::{
    Realtime,
    model::{ConnectionCounts, NodeId, StreamKey},
    ports::LimitReached,
};
use redis::{Pipeline, RedisResult, aio::ConnectionLike as _};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use crate::redis_client::{Connection, RedisClient};

/// How long what a node holds counts after it was last heard of. A dead node's places are free by then.
const LEASE: Duration = Duration::from_secs(10);
const RENEWAL: Duration = Duration::from_millis(2500);
/// How long Redis is left alone after it refused.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Orders written at once.
const MAX_BATCH: usize = 256;
/// What of a whole count is written at once.
const PAGE: usize = 1000;

/// Sets what a node holds for a stream, provided that it is not too much together with what living others hold.
///
/// Keys: the nodes with the ends of their leases; this node's places. Arguments: the beginning of the names of places,
/// this node, the stream, the total it would hold, all it would hold, the limit (negative: none), the lease in ms.
const SET_COUNT: &str = r"
local held = tonumber(ARGV[4])
local limit = tonumber(ARGV[6])
if limit >= 0 then
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
        if node ~= ARGV[2] then
            local other = redis.call('HGET', ARGV[1] .. node, ARGV[3])
            if other then held = held + tonumber(string.match(other, '^%d+')) end
        end
    end
    if held > limit then return 0 end
end
if tonumber(ARGV[4]) > 0 then
    redis.call('HSET', KEYS[2], ARGV[3], ARGV[5])
    redis.call('PEXPIRE', KEYS[2], ARGV[7])
else
    redis.call('HDEL', KEYS[2], ARGV[3])
end
return 1
";

/// Renews a node's lease; 0 where Redis knows nothing of it any more.
///
/// Keys: the nodes; this node's places. Arguments: this node, the lease in ms.
const RENEW: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) or redis.call('HEXISTS', KEYS[2], '') == 0 then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
";

/// Begins a node's lease with a field that stands for the node itself, so that places which Redis lost are told from those
/// that nobody holds; and ends those of the names that it had before.
///
/// Keys: the nodes; its places; the places under its earlier names. Arguments: its name, the lease in ms, its earlier names.
const REGISTER: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for n = 3, #KEYS do
    redis.call('ZREM', KEYS[1], ARGV[n])
    redis.call('UNLINK', KEYS[n])
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], '', '0')
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
";

/// The names of it all in Redis, kept by one server so that a script may use them together.
pub(super) struct KeyNames {
    pub(super) nodes: String,
    places: String,
}

impl KeyNames {
    pub(super) fn new(client: &RedisClient) -> Self {
        Self { nodes: client.name_together("nodes"), places: client.name_together("places:") }
    }

    pub(super) fn counts_key(&self, node: &str) -> String {
        format!("{}{node}", self.places)
    }
}

/// A stream as a field of a hash.
pub(super) fn field(stream: &StreamKey) -> String {
    format!("{}:{}", stream.kind().as_str(), stream.name())
}

/// What sockets want. One or two a socket, and sockets are bounded.
pub(super) enum Command {
    Acquire { stream: StreamKey, own: ConnectionCounts, limit: usize, answer: oneshot::Sender<Result<(), LimitReached>> },
    SetCount { stream: StreamKey, own: ConnectionCounts },
    Recount,
    Leave(oneshot::Sender<()>),
}

/// What places are made of.
pub struct RedisLimiterParts {
    pub(super) client: Arc<RedisClient>,
    pub(super) commands_rx: mpsc::UnboundedReceiver<Command>,
    pub(super) own: Arc<RwLock<Option<NodeId>>>,
}

impl RedisLimiterParts {
    /// Starts counting; `online` says what this node holds.
    pub fn start(self, online: Realtime) {
        let Self { client, commands_rx, own } = self;
        let names = KeyNames::new(&client);
        actix_rt::spawn(
            RedisLimiterTask {
                client,
                names,
                online,
                own,
                commands_rx,
                name: None,
                previous_names: Vec::new(),
                retry_at: None,
                left: false,
            }
            .run(),
        );
    }
}

struct RedisLimiterTask {
    client: Arc<RedisClient>,
    names: KeyNames,
    online: Realtime,
    own: Arc<RwLock<Option<NodeId>>>,
    commands_rx: mpsc::UnboundedReceiver<Command>,
    /// The name under which all that this node holds is written down; `None` while it is not.
    name: Option<NodeId>,
    /// The names that something may be written under, which counts until its lease ends.
    previous_names: Vec<(NodeId, Instant)>,
    /// Redis refused: until then it is not asked to take all of it again.
    retry_at: Option<Instant>,
    left: bool,
}

impl RedisLimiterTask {
    async fn run(mut self) {
        let mut renewal = tokio::time::interval(RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut commands_tx = Vec::with_capacity(MAX_BATCH);
        loop {
            tokio::select! {
                biased;
                _ = renewal.tick() => {}
                () = self.client.changed() => {}
                count = self.commands_rx.recv_many(&mut commands_tx, MAX_BATCH) => if count == 0 { return },
            }
            let batch = std::mem::take(&mut commands_tx);
            if self.left {
                batch.into_iter().for_each(grant_locally);
                continue;
            }
            let is_renewal = batch.is_empty();
            let is_last = batch.iter().any(|order| matches!(order, Command::Leave(_)));
            let outcome = match self.client.connection() {
                Some(mut connection) if self.retry_at.is_none_or(|until| until <= Instant::now()) => {
                    self.work(&mut connection, batch, is_renewal).await
                }
                _ => {
                    self.set_name(None);
                    batch.into_iter().for_each(grant_locally);
                    Ok(())
                }
            };
            // Whether Redis heard of it or not, this node takes no new name.
            self.left |= is_last;
            match outcome {
                Ok(()) if self.name.is_some() => self.retry_at = None,
                Ok(()) => {}
                Err(error) => {
                    if self.retry_at.is_none() {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "places are counted by this node alone until Redis takes them");
                    }
                    self.retry_at = Some(Instant::now() + RETRY_PAUSE);
                    self.set_name(None);
                }
            }
        }
    }

    fn set_name(&mut self, name: Option<NodeId>) {
        self.name = name;
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = name;
    }

    async fn work(&mut self, connection: &mut Connection, mut batch: Vec<Command>, renew: bool) -> RedisResult<()> {
        if let Some(recount) = batch.iter().rposition(|order| matches!(order, Command::Recount)) {
            self.set_name(None);
            // What was asked before it is in the new count, or of a registry that is gone.
            let (leave, before): (Vec<_>, _) =
                batch.drain(..=recount).partition(|order| matches!(order, Command::Leave(_)));
            before.into_iter().for_each(grant_locally);
            batch.extend(leave);
        }
        let result = async {
            match self.name {
                None => self.register(connection).await?,
                Some(name) if renew && !self.renew(connection, name).await? => self.register(connection).await?,
                Some(_) => {}
            }
            Ok(())
        };
        if let Err(error) = result.await {
            batch.into_iter().for_each(grant_locally);
            return Err(error);
        }
        let Some(name) = self.name else { return Ok(()) };
        self.write(connection, name, batch).await
    }

    /// Takes a new name and writes down all that this node holds. What changed in the meantime waits in the queue and is
    /// written after it: the numbers are absolute, so in the end each is the last.
    async fn register(&mut self, connection: &mut Connection) -> RedisResult<()> {
        let name = NodeId::generate();
        // What was written under a name longer ago than its lease is gone by itself.
        self.previous_names.retain(|(_, previous_names)| previous_names.elapsed() < 2 * LEASE);
        let earlier: Vec<String> = self.previous_names.iter().map(|(name, _)| name.to_string()).collect();
        self.previous_names.push((name, Instant::now()));
        let places = self.names.counts_key(&name.to_string());
        let held = self.online.tally().await;
        redis::cmd("EVAL")
            .arg(REGISTER)
            .arg(2 + earlier.len())
            .arg(&self.names.nodes)
            .arg(&places)
            .arg(earlier.iter().map(|name| self.names.counts_key(name)).collect::<Vec<_>>())
            .arg(name.to_string())
            .arg(LEASE.as_millis() as u64)
            .arg(&earlier)
            .query_async::<()>(connection)
            .await?;
        self.previous_names = vec![(name, Instant::now())];
        for page in held.chunks(PAGE) {
            let fields: Vec<(String, String)> =
                page.iter().map(|(stream, held)| (field(stream), held.to_string())).collect();
            let mut pipeline = Pipeline::new();
            pipeline.cmd("HSET").arg(&places).arg(fields).ignore();
            pipeline.cmd("PEXPIRE").arg(&places).arg(LEASE.as_millis() as u64).ignore();
            pipeline.query_async::<()>(connection).await?;
        }
        tracing::info!(count = held.len(), "places written down");
        self.set_name(Some(name));
        Ok(())
    }

    async fn renew(&self, connection: &mut Connection, name: NodeId) -> RedisResult<bool> {
        let name = name.to_string();
        redis::cmd("EVAL")
            .arg(RENEW)
            .arg(2)
            .arg(&self.names.nodes)
            .arg(self.names.counts_key(&name))
            .arg(&name)
            .arg(LEASE.as_millis() as u64)
            .query_async(connection)
            .await
    }

    async fn write(&mut self, connection: &mut Connection, name: NodeId, batch: Vec<Command>) -> RedisResult<()> {
        let name = name.to_string();
        let places = self.names.counts_key(&name);
        let mut pipeline = Pipeline::with_capacity(batch.len());
        let mut answers = Vec::with_capacity(batch.len());
        let mut leaving = None;
        for order in batch {
            let (stream, own, limit, answer) = match order {
                Command::Acquire { stream, own, limit, answer } => {
                    (stream, own, i64::try_from(limit).unwrap_or(i64::MAX), Some(answer))
                }
                Command::SetCount { stream, own } => (stream, own, -1, None),
                Command::Recount => continue,
                Command::Leave(done) => {
                    leaving = Some(done);
                    continue;
                }
            };
            pipeline
                .cmd("EVAL")
                .arg(SET_COUNT)
                .arg(2)
                .arg(&self.names.nodes)
                .arg(&places)
                .arg(&self.names.places)
                .arg(&name)
                .arg(field(&stream))
                .arg(own.total())
                .arg(own.to_string())
                .arg(limit)
                .arg(LEASE.as_millis() as u64);
            answers.push(answer);
        }
        if !answers.is_empty() {
            let outcome: RedisResult<Vec<u8>> = pipeline.query_async(connection).await;
            let granted = outcome.as_ref().map_or_else(|_| vec![1; answers.len()], Clone::clone);
            for (answer, granted) in answers.into_iter().zip(granted) {
                if let Some(answer) = answer {
                    let _ = answer.send(if granted == 1 { Ok(()) } else { Err(LimitReached) });
                }
            }
            outcome?;
        }
        if let Some(done) = leaving {
            let mut pipeline = Pipeline::new();
            pipeline.cmd("ZREM").arg(&self.names.nodes).arg(&name).ignore().cmd("UNLINK").arg(&places).ignore();
            let gone = connection.req_packed_commands(&pipeline, 0, 2).await;
            let _ = done.send(());
            gone?;
        }
        Ok(())
    }
}

/// Answers for a Redis that does not: this node's own count decides, and the registry has looked at that.
fn grant_locally(order: Command) {
    match order {
        Command::Acquire { answer, .. } => {
            let _ = answer.send(Ok(()));
        }
        Command::Leave(done) => {
            let _ = done.send(());
        }
        Command::SetCount { .. } | Command::Recount => {}
    }
}
