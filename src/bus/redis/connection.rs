//! The bus while it is connected: receives, subscribes, sends, and notices a connection that is dead although it looks
//! alive.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
    time::Duration,
};

use oriva_hub_actors::model::{AppId, NodeId, StreamKey, StreamKind, UserId};
use redis::{PushInfo, PushKind, RedisError, Value};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use super::status::{BusStatus, Command, Outgoing};
use crate::{
    bus::{
        BusEvent,
        message::{DecodeError, Message, channel_name},
    },
    redis_client::{Connection, PushReceiver, RedisClient, RedisConnections, Subscriber},
};

/// Inputs taken at once, of whatever waits.
const MAX_BATCH: usize = 512;
/// How often a node sends a heartbeat over the bus.
const BEAT: Duration = Duration::from_secs(1);
/// A connection on which no heartbeat came for this long is dead, whatever its socket says.
pub(super) const SILENCE: Duration = Duration::from_millis(3500);
/// Channels for heartbeats in a cluster: enough that nearly every server carries one.
const SHARDED_BEATS: usize = 16;

/// What a session takes from the handle.
pub(super) struct Inputs {
    pub commands: mpsc::UnboundedReceiver<Command>,
    pub outgoing: mpsc::Receiver<Outgoing>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Disconnect {
    #[error("redis failed")]
    Redis(#[from] RedisError),
    #[error("the connection ended")]
    Ended,
    #[error("a channel moved to another server")]
    Moved,
    #[error("this node does not hear its own heartbeat")]
    Silent,
    /// Nobody uses the bus any more.
    #[error("the hub stops")]
    Stopped,
}

/// When heartbeats were last heard.
struct PeerBeats {
    /// This node's own, by channel.
    own: RefCell<HashMap<String, Instant>>,
    others: RefCell<HashMap<NodeId, Instant>>,
}

impl PeerBeats {
    fn new(channels: Vec<String>) -> Self {
        let now = Instant::now();
        let own = channels.into_iter().map(|channel| (channel, now)).collect();
        Self { own: RefCell::new(own), others: RefCell::default() }
    }
}

/// Messages being sent. Where that ends before they are sent, by an error or because another part of the session failed,
/// the other nodes must resynchronise.
struct InFlight<'a> {
    status: &'a BusStatus,
    count: usize,
    bytes: usize,
    are_sent: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.status.unqueued(self.count, self.bytes);
        if !self.are_sent {
            self.status.publish_dropped.store(true, Ordering::SeqCst);
        }
    }
}

/// The bus while it is connected.
pub(super) struct BusConnection<'a> {
    pub client: &'a RedisClient,
    pub node: NodeId,
    pub status: &'a BusStatus,
    pub events: &'a mpsc::Sender<BusEvent>,
    /// The streams that sessions here follow.
    pub followed: &'a RefCell<HashSet<StreamKey>>,
    pub is_sharded: bool,
}

impl BusConnection<'_> {
    /// Serves until the connection is lost.
    pub(super) async fn run(
        &self,
        connections: RedisConnections,
        mut pushed: PushReceiver,
        inputs: &mut Inputs,
    ) -> Disconnect {
        let RedisConnections { commands, pool, subscriber } = connections;
        let mut channels = self.beat_channels();
        channels.push(self.channel(&StreamKey::Broadcast));
        channels.extend(self.followed.borrow().iter().map(|stream| self.channel(stream)));
        if let Err(error) = subscriber.subscribe(&channels).await {
            return error.into();
        }
        if let Err(reason) = self.check_writable(&mut commands.clone()).await {
            return reason;
        }
        self.client.set(Some((commands.clone(), pool)));
        self.status.set_up(true);
        // Nobody here heard what was sent before this moment.
        self.emit(BusEvent::Resync);
        tracing::info!(channels = channels.len(), sharded = self.is_sharded, "bus connected");

        let beats = PeerBeats::new(self.beat_channels());
        let outcome: Result<((), (), (), ()), Disconnect> = tokio::try_join!(
            self.receive(&mut pushed, &beats),
            self.subscribe(&mut inputs.commands, &subscriber),
            self.send(&mut inputs.outgoing, commands.clone()),
            self.beat(commands, &beats),
        );
        // In this order: who publishes in between sees a bus that is away, and notes that a message was dropped.
        self.status.set_up(false);
        self.status.peers().clear();
        outcome.err().unwrap_or(Disconnect::Ended)
    }

    /// Passes on what was learnt. What does not fit is made up for by a resync.
    fn emit(&self, event: BusEvent) {
        if self.events.try_send(event).is_err() {
            self.status.receive_dropped.store(true, Ordering::SeqCst);
        }
    }

    /// Passes on a resync where something was dropped, as soon as there is room for it.
    fn resync_if_dropped(&self) {
        if self.status.receive_dropped.swap(false, Ordering::SeqCst) {
            self.emit(BusEvent::Resync);
        }
    }

    fn channel(&self, stream: &StreamKey) -> String {
        self.client.name(&channel_name(stream))
    }

    fn beat_channels(&self) -> Vec<String> {
        match self.is_sharded {
            false => vec![self.client.name("nodes")],
            true => (0..SHARDED_BEATS).map(|n| self.client.name(&format!("nodes:{n}"))).collect(),
        }
    }

    /// The stream of a channel; `None` for the channels of the nodes.
    fn stream(&self, channel: &str) -> Option<StreamKey> {
        let name = channel.strip_prefix(&*self.client.name(""))?;
        match name.split_once(':') {
            Some(("user", id)) => UserId::parse(id).ok().map(StreamKey::User),
            Some(("app", id)) => AppId::parse(id).ok().map(StreamKey::App),
            _ => (name == "broadcast").then_some(StreamKey::Broadcast),
        }
    }

    async fn receive(&self, pushed: &mut PushReceiver, beats: &PeerBeats) -> Result<(), Disconnect> {
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
                            (Ok((_, Message::Frame(frame))), Some(stream)) => self.emit(BusEvent::Frame(stream, frame)),
                            (Ok((_, Message::Probe)), Some(stream)) => self.emit(BusEvent::Probe(stream)),
                            (Ok((_, Message::Resync)), _) => self.emit(BusEvent::Resync),
                            (Ok((_, Message::Credentials)), _) => self.emit(BusEvent::CredentialsChanged),
                            (Ok((origin, Message::Beat)), _) => self.record_beat(beats, origin, &channel),
                            (Err(DecodeError::Own), _) => {}
                            (Ok(_), None) | (Err(DecodeError::Form), _) => {
                                self.status.receive_dropped.store(true, Ordering::SeqCst);
                            }
                        }
                    }
                    // A server gave away a channel that somebody here follows.
                    (PushKind::SUnsubscribe, _)
                        if stream.is_some_and(|stream| self.followed.borrow().contains(&stream)) =>
                    {
                        return Err(Disconnect::Moved);
                    }
                    _ => {}
                }
            }
            if !events.is_empty() {
                self.emit(BusEvent::Events(events));
            }
            self.resync_if_dropped();
        }
    }

    fn record_beat(&self, beats: &PeerBeats, origin: NodeId, channel: &str) {
        let now = Instant::now();
        if origin != self.node {
            beats.others.borrow_mut().insert(origin, now);
            self.status.peers().insert(origin);
        } else if let Some(last) = beats.own.borrow_mut().get_mut(channel) {
            *last = now;
        }
    }

    /// Subscribes to what sessions follow. What is asked for while the server confirms goes with the next command.
    async fn subscribe(
        &self,
        commands_rx: &mut mpsc::UnboundedReceiver<Command>,
        subscriber: &Subscriber,
    ) -> Result<(), Disconnect> {
        let mut commands = Vec::with_capacity(MAX_BATCH);
        loop {
            if commands_rx.recv_many(&mut commands, MAX_BATCH).await == 0 {
                return Err(Disconnect::Stopped);
            }
            let (mut added, mut removed) = (HashSet::new(), HashSet::new());
            let mut confirmations: Vec<oneshot::Sender<()>> = Vec::new();
            for command in commands.drain(..) {
                let mut followed = self.followed.borrow_mut();
                match command {
                    Command::Follow(stream, confirm) => {
                        confirmations.push(confirm);
                        if followed.insert(stream.clone()) && !removed.remove(&stream) {
                            added.insert(stream);
                        }
                    }
                    Command::Unfollow(stream) => {
                        if followed.remove(&stream) && !added.remove(&stream) {
                            removed.insert(stream);
                        }
                    }
                }
            }
            let channels = |streams: HashSet<StreamKey>| streams.iter().map(|s| self.channel(s)).collect::<Vec<_>>();
            subscriber.unsubscribe(&channels(removed)).await?;
            subscriber.subscribe(&channels(added)).await?;
            for confirm in confirmations {
                let _ = confirm.send(());
            }
        }
    }

    /// Sends what is queued, everything that waits in one pipeline.
    async fn send(
        &self,
        outgoing: &mut mpsc::Receiver<Outgoing>,
        mut connection: Connection,
    ) -> Result<(), Disconnect> {
        let mut batch: Vec<Outgoing> = Vec::with_capacity(MAX_BATCH);
        loop {
            self.send_resync_if_dropped(&mut connection).await?;
            if outgoing.recv_many(&mut batch, MAX_BATCH).await == 0 {
                return Err(Disconnect::Stopped);
            }
            let (count, bytes) = (batch.len(), batch.iter().map(|message| message.bytes).sum());
            let mut in_flight = InFlight { status: self.status, count, bytes, are_sent: false };
            let messages: Vec<(String, Vec<u8>)> = batch
                .drain(..)
                .map(|Outgoing { stream, message, .. }| match &stream {
                    Some(stream) => (self.channel(stream), message.encode(self.node, stream.kind())),
                    None => (self.beat_channels().swap_remove(0), message.encode(self.node, StreamKind::Broadcast)),
                })
                .collect();
            connection.publish(&messages).await?;
            in_flight.are_sent = true;
        }
    }

    /// Has the other nodes resynchronise where a message was dropped.
    async fn send_resync_if_dropped(&self, connection: &mut Connection) -> Result<(), Disconnect> {
        if self.status.publish_dropped.swap(false, Ordering::SeqCst) {
            self.status.queued(0);
            let mut in_flight = InFlight { status: self.status, count: 1, bytes: 0, are_sent: false };
            let message = Message::Resync.encode(self.node, StreamKind::Broadcast);
            connection.publish(&[(self.beat_channels().swap_remove(0), message)]).await?;
            in_flight.are_sent = true;
        }
        Ok(())
    }

    /// Checks that the server still accepts writes. One that became a replica delivers messages to its own subscribers
    /// only, and the name it was reached by leads to another server by now or soon will. Other refusals (out of memory, no
    /// permission) do not keep messages from being delivered.
    async fn check_writable(&self, connection: &mut Connection) -> Result<(), Disconnect> {
        let key = self.client.name("written");
        let written = redis::cmd("SET").arg(key).arg(1).arg("EX").arg(60).query_async::<()>(connection).await;
        match written {
            Err(error) if error.code() == Some("READONLY") => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Sends heartbeats, and watches for this node's own and those of the others.
    async fn beat(&self, mut connection: Connection, beats: &PeerBeats) -> Result<(), Disconnect> {
        let mut tick = tokio::time::interval(BEAT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let messages: Vec<(String, Vec<u8>)> = self
            .beat_channels()
            .into_iter()
            .map(|channel| (channel, Message::Beat.encode(self.node, StreamKind::Broadcast)))
            .collect();
        let mut last = Instant::now();
        loop {
            tick.tick().await;
            if last.elapsed() > SILENCE {
                // This node stood still. The others may have given it up meanwhile and sent it nothing.
                self.emit(BusEvent::Resync);
            }
            last = Instant::now();
            connection.publish(&messages).await?;
            self.send_resync_if_dropped(&mut connection).await?;
            self.resync_if_dropped();
            self.check_writable(&mut connection).await?;
            let now = Instant::now();
            if beats.own.borrow().values().any(|last| now.duration_since(*last) > SILENCE) {
                return Err(Disconnect::Silent);
            }
            let mut others = beats.others.borrow_mut();
            let before = others.len();
            others.retain(|_, last| now.duration_since(*last) <= SILENCE);
            if others.len() < before {
                // That node may have ended between a commit and the message that tells of it.
                self.emit(BusEvent::Resync);
                self.status.peers().retain(|node| others.contains_key(node));
            }
        }
    }
}
