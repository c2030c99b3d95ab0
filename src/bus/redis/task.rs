//! Keeps the bus: connects, subscribes, tells and hears, notices when it is dead although it looks alive, and begins anew.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix_rt::Arbiter;
use backon::BackoffBuilder as _;
use oriva_hub_actors::{
    Realtime,
    model::{AppId, NodeId, StreamKey, StreamKind, UserId},
};
use redis::{PushInfo, PushKind, RedisError, Value};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use super::{Command, Outgoing, BusStatus};
use crate::{
    bus::message::{Message, DecodeError, channel_of},
    client::{RedisClient, RedisConnections, Subscriber},
};

/// Messages from Redis that may wait here; past that sessions look into the store.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Taken at once, of whatever waits.
const MAX_BATCH: usize = 512;
/// How often a node says that it lives, through the bus itself.
const BEAT: Duration = Duration::from_secs(1);
/// A way on which no beat came for so long is dead, whatever its connections say.
const SILENCE: Duration = Duration::from_millis(3500);
/// Channels for beats in a cluster, so that more or less every server carries one.
const SHARDED_BEATS: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a bus is made of.
pub struct RedisBusParts {
    pub(super) client: Arc<RedisClient>,
    pub(super) node: NodeId,
    pub(super) commands_rx: mpsc::UnboundedReceiver<Command>,
    pub(super) send_rx: mpsc::Receiver<Outgoing>,
    pub(super) status: Arc<BusStatus>,
}

/// Why a bus was given up.
#[derive(Debug, thiserror::Error)]
enum Disconnect {
    #[error("redis failed")]
    Redis(#[from] RedisError),
    #[error("the connection ended")]
    Ended,
    #[error("a channel moved to another server")]
    Moved,
    #[error("this node does not hear itself")]
    Silent,
    /// Nobody uses the bus any more.
    #[error("the hub stops")]
    Over,
}

impl RedisBusParts {
    /// Starts the bus on a thread of its own. What is heard goes to `online`; `credentials` is woken when one changed
    /// elsewhere.
    pub fn start(self, online: Realtime, credentials: Arc<Notify>) {
        Arbiter::new().spawn_fn(move || {
            let task = RedisBusTask { followed: RefCell::default(), parts: self, online, credentials };
            actix_rt::spawn(task.run());
        });
    }
}

struct RedisBusTask {
    parts: RedisBusParts,
    online: Realtime,
    credentials: Arc<Notify>,
    /// What sessions here want to hear.
    followed: RefCell<HashSet<StreamKey>>,
}

impl RedisBusTask {
    async fn run(mut self) {
        let pauses = || {
            let builder = backon::ExponentialBuilder::default().with_min_delay(FIRST_PAUSE);
            builder.with_max_delay(LONGEST_PAUSE).with_jitter().without_max_times().build()
        };
        let mut pause = pauses();
        let mut was_logged = false;
        loop {
            let (pushes, pushed) = mpsc::channel(RECEIVE_BUFFER);
            let client = self.parts.client.clone();
            let status = self.parts.status.clone();
            let open = client.connect(pushes, move || status.receive_dropped.store(true, Ordering::SeqCst));
            let reason = match self.while_disconnected(open).await {
                Some(Ok(connections)) => {
                    let begun = Instant::now();
                    let reason = self.serve(connections, pushed).await;
                    self.parts.client.set(None);
                    self.parts.status.set_up(false);
                    if begun.elapsed() > SILENCE {
                        (pause, was_logged) = (pauses(), false);
                    }
                    reason
                }
                Some(Err(error)) => error.into(),
                None => Disconnect::Over,
            };
            if matches!(reason, Disconnect::Over) {
                return;
            }
            if !std::mem::replace(&mut was_logged, true) {
                let error = &reason as &dyn std::error::Error;
                tracing::warn!(error, "bus is away; sessions look into the store until it is back");
            }
            let pause = pause.next().unwrap_or(LONGEST_PAUSE);
            if self.while_disconnected(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Waits for something while there is no bus: whoever wants to hear is told at once that nobody says anything. `None`
    /// where nobody uses the bus any more.
    async fn while_disconnected<T>(&mut self, something: impl Future<Output = T>) -> Option<T> {
        let parts = &mut self.parts;
        let nobody_says_anything = async {
            loop {
                tokio::select! {
                    order = parts.commands_rx.recv() => match order {
                        Some(Command::Follow(stream, _)) => { self.followed.borrow_mut().insert(stream); }
                        Some(Command::Unfollow(stream)) => { self.followed.borrow_mut().remove(&stream); }
                        None => return,
                    },
                    send_rx = parts.send_rx.recv() => match send_rx {
                        Some(_) => {
                            parts.status.in_flight.fetch_sub(1, Ordering::SeqCst);
                            parts.status.publish_dropped.store(true, Ordering::SeqCst);
                        }
                        None => return,
                    },
                }
            }
        };
        tokio::select! {
            done = something => Some(done),
            () = nobody_says_anything => None,
        }
    }

    /// Serves until the bus is lost.
    async fn serve(&mut self, connections: RedisConnections, mut pushed: mpsc::Receiver<PushInfo>) -> Disconnect {
        let RedisConnections { commands, pool, subscriber } = connections;
        let Self { parts, online, credentials, followed } = self;
        let RedisBusParts { client, node, commands_rx, send_rx, status } = parts;
        let session = BusSession { client, node: *node, status, online, followed, is_sharded: subscriber.is_sharded() };

        let mut channels = session.beat_channels();
        channels.push(session.channel(&StreamKey::Broadcast));
        channels.extend(followed.borrow().iter().map(|stream| session.channel(stream)));
        if let Err(error) = subscriber.subscribe(&channels).await {
            return error.into();
        }
        if let Err(reason) = session.is_writable(&mut commands.clone()).await {
            return reason;
        }
        client.set(Some((commands.clone(), pool)));
        status.set_up(true);
        // Whatever was said before this moment nobody here heard.
        online.resync();
        tracing::info!(channels = channels.len(), sharded = session.is_sharded, "bus connected");

        let beats = PeerBeats::new(session.beat_channels());
        let outcome: Result<((), (), (), ()), Disconnect> = tokio::try_join!(
            session.receive(&mut pushed, &beats, credentials),
            session.follow(commands_rx, &subscriber),
            session.publish_queued(send_rx, commands.clone()),
            session.beat(commands, &beats),
        );
        // In this order: who publishes in between sees a bus that is away, and notes that nobody was told.
        status.set_up(false);
        status.peers().clear();
        outcome.err().unwrap_or(Disconnect::Ended)
    }
}

/// When beats were last heard.
struct PeerBeats {
    own: RefCell<HashMap<String, Instant>>,
    others: RefCell<HashMap<NodeId, Instant>>,
}

impl PeerBeats {
    fn new(channels: Vec<String>) -> Self {
        let now = Instant::now();
        Self {
            own: RefCell::new(channels.into_iter().map(|channel| (channel, now)).collect()),
            others: RefCell::default(),
        }
    }
}

/// Messages on their way to Redis. Where that ends before they are told, by an error or because another part of the bus was
/// lost meanwhile, the others have to be told to look.
struct InFlight<'a> {
    status: &'a BusStatus,
    count: usize,
    are_sent: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.status.in_flight.fetch_sub(self.count, Ordering::SeqCst);
        if !self.are_sent {
            self.status.publish_dropped.store(true, Ordering::SeqCst);
        }
    }
}

/// The bus while it is connected.
struct BusSession<'a> {
    client: &'a RedisClient,
    node: NodeId,
    status: &'a BusStatus,
    online: &'a Realtime,
    followed: &'a RefCell<HashSet<StreamKey>>,
    is_sharded: bool,
}

impl BusSession<'_> {
    fn channel(&self, stream: &StreamKey) -> String {
        self.client.name(&channel_of(stream))
    }

    fn beat_channels(&self) -> Vec<String> {
        match self.is_sharded {
            false => vec![self.client.name("nodes")],
            true => (0..SHARDED_BEATS).map(|n| self.client.name(&format!("nodes:{n}"))).collect(),
        }
    }

    /// The stream of a channel; `None` where it is the nodes' own.
    fn stream(&self, channel: &str) -> Option<StreamKey> {
        let name = channel.strip_prefix(&*self.client.name(""))?;
        match name.split_once(':') {
            Some(("user", id)) => UserId::parse(id).ok().map(StreamKey::User),
            Some(("app", id)) => AppId::parse(id).ok().map(StreamKey::App),
            _ => (name == "broadcast").then_some(StreamKey::Broadcast),
        }
    }

    async fn receive(
        &self,
        pushed: &mut mpsc::Receiver<PushInfo>,
        beats: &PeerBeats,
        credentials: &Notify,
    ) -> Result<(), Disconnect> {
        let mut pushes = Vec::with_capacity(MAX_BATCH);
        loop {
            if pushed.recv_many(&mut pushes, MAX_BATCH).await == 0 {
                return Err(Disconnect::Ended);
            }
            let mut events = Vec::new();
            for PushInfo { kind, data } in pushes.drain(..) {
                let mut data = data.into_iter();
                let Some(Value::BulkString(channel)) = data.next() else {
                    if kind == PushKind::Disconnection {
                        return Err(Disconnect::Ended);
                    }
                    continue;
                };
                let channel = String::from_utf8_lossy(&channel);
                let stream = self.stream(&channel);
                match (kind, data.next()) {
                    (PushKind::Message | PushKind::SMessage, Some(Value::BulkString(bytes))) => {
                        let kind = stream.as_ref().map_or(StreamKind::Broadcast, StreamKey::kind);
                        match (Message::decode(bytes.into(), self.node, kind), stream) {
                            (Ok((_, Message::Event(event))), Some(stream)) => events.push((stream, event)),
                            (Ok((_, Message::Frame(frame))), Some(stream)) => self.online.publish_queued(stream, frame),
                            (Ok((_, Message::Resync)), _) => self.online.resync(),
                            (Ok((_, Message::Credentials)), _) => credentials.notify_one(),
                            (Ok((origin, Message::Beat)), _) => self.record_beat(beats, origin, &channel),
                            (Err(DecodeError::Own), _) => {}
                            (Ok(_), None) | (Err(DecodeError::Form), _) => {
                                self.status.receive_dropped.store(true, Ordering::SeqCst);
                            }
                        }
                    }
                    // A server gave a channel away that somebody here still follows.
                    (PushKind::SUnsubscribe, _)
                        if stream.is_some_and(|stream| self.followed.borrow().contains(&stream)) =>
                    {
                        return Err(Disconnect::Moved);
                    }
                    _ => {}
                }
            }
            self.online.receive(events);
            if self.status.receive_dropped.swap(false, Ordering::SeqCst) {
                self.online.resync();
            }
        }
    }

    fn record_beat(&self, beats: &PeerBeats, origin: NodeId, channel: &str) {
        let now = Instant::now();
        if origin != self.node {
            let mut others = beats.others.borrow_mut();
            others.insert(origin, now);
            self.status.peers().insert(origin);
        } else if let Some(last) = beats.own.borrow_mut().get_mut(channel) {
            *last = now;
        }
    }

    /// Subscribes to what sessions follow. What is wanted while the server confirms goes with the next question.
    async fn follow(&self, commands_rx: &mut mpsc::UnboundedReceiver<Command>, subscriber: &Subscriber) -> Result<(), Disconnect> {
        let mut commands_tx = Vec::with_capacity(MAX_BATCH);
        loop {
            if commands_rx.recv_many(&mut commands_tx, MAX_BATCH).await == 0 {
                return Err(Disconnect::Over);
            }
            let (mut wanted, mut unwanted) = (HashSet::new(), HashSet::new());
            let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
            for order in commands_tx.drain(..) {
                let mut followed = self.followed.borrow_mut();
                match order {
                    Command::Follow(stream, confirm) => {
                        waiting.push(confirm);
                        if followed.insert(stream.clone()) && !unwanted.remove(&stream) {
                            wanted.insert(stream);
                        }
                    }
                    Command::Unfollow(stream) => {
                        if followed.remove(&stream) && !wanted.remove(&stream) {
                            unwanted.insert(stream);
                        }
                    }
                }
            }
            let channels = |streams: HashSet<StreamKey>| streams.iter().map(|s| self.channel(s)).collect::<Vec<_>>();
            subscriber.unsubscribe(&channels(unwanted)).await?;
            subscriber.subscribe(&channels(wanted)).await?;
            for confirm in waiting {
                let _ = confirm.send(());
            }
        }
    }

    /// Publishes what this node has to tell, everything that waits in one go.
    async fn publish_queued(
        &self,
        send_rx: &mut mpsc::Receiver<Outgoing>,
        mut commands: crate::redis_client::Connection,
    ) -> Result<(), Disconnect> {
        let mut batch: Vec<Outgoing> = Vec::with_capacity(MAX_BATCH);
        loop {
            if self.status.publish_dropped.swap(false, Ordering::SeqCst) {
                batch.push((None, Message::Resync));
                self.status.in_flight.fetch_add(1, Ordering::SeqCst);
            }
            if batch.is_empty() && send_rx.recv_many(&mut batch, MAX_BATCH).await == 0 {
                return Err(Disconnect::Over);
            }
            let messages: Vec<(String, Vec<u8>)> = batch
                .drain(..)
                .map(|(stream, message)| match &stream {
                    Some(stream) => (self.channel(stream), message.encode(self.node, stream.kind())),
                    None => (self.beat_channels().swap_remove(0), message.encode(self.node, StreamKind::Broadcast)),
                })
                .collect();
            let mut in_flight = InFlight { status: self.status, count: messages.len(), are_sent: false };
            commands.publish(&messages).await?;
            in_flight.are_sent = true;
        }
    }

    /// Whether this is still the server that takes what is written. One that was made a replica passes messages on to its
    /// own subscribers alone; the name that it was reached by leads to another by now, or soon will. Other refusals (no
    /// memory, no right) do not stand in a message's way.
    async fn is_writable(&self, commands: &mut crate::redis_client::Connection) -> Result<(), Disconnect> {
        let name = self.client.name("written");
        let written = redis::cmd("SET").arg(name).arg(1).arg("EX").arg(60).query_async::<()>(commands).await;
        match written {
            Err(error) if error.code() == Some("READONLY") => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Says that this node lives, and listens for itself and the others.
    async fn beat(&self, mut commands: crate::redis_client::Connection, beats: &PeerBeats) -> Result<(), Disconnect> {
        let mut tick = tokio::time::interval(BEAT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let beats: Vec<(String, Vec<u8>)> = self
            .beat_channels()
            .into_iter()
            .map(|channel| (channel, Message::Beat.encode(self.node, StreamKind::Broadcast)))
            .collect();
        let mut last = Instant::now();
        loop {
            tick.tick().await;
            if last.elapsed() > SILENCE {
                // This node stood still, and the others may have given it up meanwhile and told it nothing.
                self.online.resync();
            }
            last = Instant::now();
            commands.publish(&beats).await?;
            if self.status.publish_dropped.swap(false, Ordering::SeqCst) {
                self.status.in_flight.fetch_add(1, Ordering::SeqCst);
                let mut resync = InFlight { status: self.status, count: 1, are_sent: false };
                let channel = self.beat_channels().swap_remove(0);
                commands.publish(&[(channel, Message::Resync.encode(self.node, StreamKind::Broadcast))]).await?;
                resync.are_sent = true;
            }
            self.is_writable(&mut commands).await?;
            let now = Instant::now();
            if beats.own.borrow().values().any(|last| now.duration_since(*last) > SILENCE) {
                return Err(Disconnect::Silent);
            }
            let mut others = beats.others.borrow_mut();
            let before = others.len();
            others.retain(|_, last| now.duration_since(*last) <= SILENCE);
            if others.len() < before {
                // It may have ended between a commit and telling of it.
                self.online.resync();
                self.status.peers().retain(|node| others.contains_key(node));
            }
        }
    }
}
