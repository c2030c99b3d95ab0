//! Writes to Redis what this node holds, in the order in which it changed, and renews the lease under which that counts.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use oriva_hub_actors::{
    Tasks,
    model::{ConnectionCounts, NodeId, StreamKey},
    ports::LimitReached,
};
use redis::{Pipeline, RedisResult, aio::ConnectionLike as _};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use super::scripts::{KeyNames, REGISTER, RENEW, SET_COUNT, field};
use crate::{
    presence::SnapshotRequest,
    redis_client::{Connection, RedisClient},
};

/// How long a node's connections are known after its last renewal. So long a dead node's users are shown as online.
const LEASE: Duration = Duration::from_secs(10);
/// How long they count towards a limit: who comes back from a dead node must not be refused for what it held there.
const COUNTED: Duration = Duration::from_millis(3500);
const RENEWAL: Duration = Duration::from_secs(1);
/// How long Redis is left alone after an error.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Commands written in one pipeline.
const MAX_BATCH: usize = 256;
/// Streams of a whole snapshot written in one pipeline.
const PAGE: usize = 1000;

/// What sockets ask of the task. One or two for each socket, so the queue is bounded by those.
pub(super) enum Command {
    Acquire {
        stream: StreamKey,
        own: ConnectionCounts,
        limit: usize,
        answer: oneshot::Sender<Result<(), LimitReached>>,
    },
    SetCount {
        stream: StreamKey,
        own: ConnectionCounts,
    },
    Recount,
    Leave(oneshot::Sender<()>),
}

/// The task behind [`super::RedisConnectionLimiter`].
pub(super) struct RedisLimiterTask {
    client: Arc<RedisClient>,
    keys: KeyNames,
    commands: mpsc::UnboundedReceiver<Command>,
    snapshots: mpsc::Sender<SnapshotRequest>,
    /// The name under which all of this node's counts are in Redis. `None` while they are not.
    name: Arc<RwLock<Option<NodeId>>>,
    /// Other nodes that count in the same place.
    others: Arc<AtomicUsize>,
    /// Earlier names. What may be in Redis under them counts until their leases end.
    previous_names: Vec<(NodeId, Instant)>,
    /// Redis failed: until then it is left alone.
    retry_at: Option<Instant>,
    has_left: bool,
}

impl RedisLimiterTask {
    pub(super) fn new(
        client: Arc<RedisClient>,
        commands: mpsc::UnboundedReceiver<Command>,
        snapshots: mpsc::Sender<SnapshotRequest>,
        name: Arc<RwLock<Option<NodeId>>>,
        others: Arc<AtomicUsize>,
    ) -> Self {
        let keys = KeyNames::new(&client);
        let previous_names = Vec::new();
        Self { client, keys, commands, snapshots, name, others, previous_names, retry_at: None, has_left: false }
    }

    /// Starts the task, which is restarted after a panic.
    pub(super) fn start(self, tasks: Tasks) {
        let task = Arc::new(tokio::sync::Mutex::new(self));
        actix_rt::spawn(async move {
            let build = || {
                let task = task.clone();
                async move { task.lock().await.run().await }
            };
            tasks.keep_running("connection_limiter", build).await;
        });
    }

    async fn run(&mut self) {
        // After a panic what was written may be incomplete.
        self.set_name(None);
        let mut renewal = tokio::time::interval(RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut commands = Vec::with_capacity(MAX_BATCH);
        loop {
            tokio::select! {
                biased;
                _ = renewal.tick() => {}
                () = self.client.changed() => {}
                count = self.commands.recv_many(&mut commands, MAX_BATCH) => if count == 0 { return },
            }
            let batch = std::mem::take(&mut commands);
            if self.has_left {
                batch.into_iter().for_each(grant_locally);
                continue;
            }
            let is_renewal = batch.is_empty();
            let is_last = batch.iter().any(|command| matches!(command, Command::Leave(_)));
            let outcome = match self.client.connection() {
                Some(mut connection) if self.retry_at.is_none_or(|at| at <= Instant::now()) => {
                    self.work(&mut connection, batch, is_renewal).await
                }
                _ => {
                    self.set_name(None);
                    batch.into_iter().for_each(grant_locally);
                    Ok(())
                }
            };
            // Whether Redis heard of it or not: a node that left does not register again.
            self.has_left |= is_last;
            match outcome {
                Ok(()) if self.name().is_some() => self.retry_at = None,
                Ok(()) => {}
                Err(error) => {
                    if self.retry_at.is_none() {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(
                            error,
                            "connections are counted by this node alone until Redis counts them again"
                        );
                    }
                    self.retry_at = Some(Instant::now() + RETRY_PAUSE);
                    self.set_name(None);
                }
            }
        }
    }

    fn name(&self) -> Option<NodeId> {
        *self.name.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_name(&self, name: Option<NodeId>) {
        *self.name.write().unwrap_or_else(PoisonError::into_inner) = name;
    }

    async fn work(
        &mut self,
        connection: &mut Connection,
        mut batch: Vec<Command>,
        is_renewal: bool,
    ) -> RedisResult<()> {
        if let Some(recount) = batch.iter().rposition(|command| matches!(command, Command::Recount)) {
            self.set_name(None);
            // What was asked before is part of the new count, or belongs to a registry that is gone.
            let (leave, before): (Vec<_>, _) =
                batch.drain(..=recount).partition(|command| matches!(command, Command::Leave(_)));
            before.into_iter().for_each(grant_locally);
            batch.extend(leave);
        }
        let registered = match self.name() {
            None => self.register(connection).await,
            Some(name) if is_renewal => match self.renew(connection, name).await {
                Ok(Some(others)) => {
                    self.others.store(others, Ordering::Relaxed);
                    // Its lease runs on, so it is to be struck if this node takes another name.
                    self.previous_names = vec![(name, Instant::now())];
                    Ok(())
                }
                Ok(None) => self.register(connection).await,
                Err(error) => Err(error),
            },
            Some(_) => Ok(()),
        };
        if let Err(error) = registered {
            batch.into_iter().for_each(grant_locally);
            return Err(error);
        }
        let Some(name) = self.name() else { return Ok(()) };
        self.write(connection, name, batch).await
    }

    /// Takes a new name and writes everything that this node holds. What changes meanwhile waits in the queue and is
    /// written afterwards: counts are absolute, so the last one is right.
    async fn register(&mut self, connection: &mut Connection) -> RedisResult<()> {
        let name = NodeId::generate();
        // What was written under an older name is gone with its lease.
        self.previous_names.retain(|(_, since)| since.elapsed() < 2 * LEASE);
        let earlier: Vec<String> = self.previous_names.iter().map(|(name, _)| name.to_string()).collect();
        self.previous_names.push((name, Instant::now()));
        let key = self.keys.counts_of(&name.to_string());
        let (request, snapshot) = oneshot::channel();
        // Where nobody answers, the hub stops.
        let _ = self.snapshots.send(request).await;
        let Ok(snapshot) = snapshot.await else { return Ok(()) };
        redis::cmd("EVAL")
            .arg(REGISTER)
            .arg(2 + earlier.len())
            .arg(&self.keys.nodes)
            .arg(&key)
            .arg(earlier.iter().map(|name| self.keys.counts_of(name)).collect::<Vec<_>>())
            .arg(name.to_string())
            .arg(LEASE.as_millis() as u64)
            .arg(&earlier)
            .query_async::<()>(connection)
            .await?;
        self.previous_names = vec![(name, Instant::now())];
        for page in snapshot.chunks(PAGE) {
            let fields: Vec<(String, String)> =
                page.iter().map(|(stream, counts)| (field(stream), counts.to_string())).collect();
            let mut pipeline = Pipeline::new();
            pipeline.cmd("HSET").arg(&key).arg(fields).ignore();
            pipeline.cmd("PEXPIRE").arg(&key).arg(LEASE.as_millis() as u64).ignore();
            pipeline.query_async::<()>(connection).await?;
        }
        tracing::info!(count = snapshot.len(), "connection counts written to redis");
        self.set_name(Some(name));
        Ok(())
    }

    /// Renews the lease. Returns the number of other nodes; `None` where Redis does not know this one any more.
    async fn renew(&self, connection: &mut Connection, name: NodeId) -> RedisResult<Option<usize>> {
        let name = name.to_string();
        redis::cmd("EVAL")
            .arg(RENEW)
            .arg(2)
            .arg(&self.keys.nodes)
            .arg(self.keys.counts_of(&name))
            .arg(&name)
            .arg(LEASE.as_millis() as u64)
            .arg((LEASE - COUNTED).as_millis() as u64)
            .query_async(connection)
            .await
    }

    async fn write(&self, connection: &mut Connection, name: NodeId, batch: Vec<Command>) -> RedisResult<()> {
        let name = name.to_string();
        let key = self.keys.counts_of(&name);
        let mut pipeline = Pipeline::with_capacity(batch.len());
        let mut answers = Vec::with_capacity(batch.len());
        let mut leaving = None;
        for command in batch {
            let (stream, own, limit, answer) = match command {
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
                .arg(&self.keys.nodes)
                .arg(&key)
                .arg(&self.keys.counts)
                .arg(&name)
                .arg(field(&stream))
                .arg(own.total())
                .arg(own.to_string())
                .arg(limit)
                .arg(LEASE.as_millis() as u64)
                .arg((LEASE - COUNTED).as_millis() as u64);
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
            pipeline.cmd("ZREM").arg(&self.keys.nodes).arg(&name).ignore().cmd("UNLINK").arg(&key).ignore();
            let gone = connection.req_packed_commands(&pipeline, 0, 2).await;
            let _ = done.send(());
            gone?;
        }
        Ok(())
    }
}

/// Answers in place of a Redis that does not: the node's own count decides, and the registry has checked that already.
fn grant_locally(command: Command) {
    match command {
        Command::Acquire { answer, .. } => {
            let _ = answer.send(Ok(()));
        }
        Command::Leave(done) => {
            let _ = done.send(());
        }
        Command::SetCount { .. } | Command::Recount => {}
    }
}
