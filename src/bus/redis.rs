//! The bus over Redis pub/sub: a channel a stream, subscribed to while somebody here follows it. This is the handle; the
//! connection is kept by `redis/task.rs`.

mod task;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use oriva_hub_actors::{
    model::{NodeId, PublishedEvent, StreamKey},
    ports::Bus,
};
use tokio::sync::{mpsc, oneshot};

pub use self::task::RedisBusParts;
use super::{BusState, NodeBus, message::Message};
use crate::redis_client::RedisClient;

/// Messages that may wait to be told; past that other nodes are told of a doubt instead.
const SEND_BUFFER: usize = 16 * 1024;
/// How long a bus that is back is not relied upon: until then others may not have noticed that somebody listens.
const GRACE: Duration = Duration::from_secs(3);
/// How long a stopping node waits for the last messages to be on their way.
const FLUSH: Duration = Duration::from_secs(1);

/// The bus as everybody uses it.
pub struct RedisBus {
    commands_tx: mpsc::UnboundedSender<Command>,
    send_tx: mpsc::Sender<Outgoing>,
    status: Arc<BusStatus>,
}

/// What sessions want to hear. One a user or app that comes or goes, and those are bounded.
enum Command {
    Follow(StreamKey, oneshot::Sender<()>),
    Unfollow(StreamKey),
}

/// A message, and the stream on whose channel it goes; `None`: to the nodes themselves.
type Outgoing = (Option<StreamKey>, Message);

/// What handle and task both know.
#[derive(Default)]
struct BusStatus {
    up_since: Mutex<Option<Instant>>,
    /// Other nodes that are heard.
    peers: Mutex<HashSet<NodeId>>,
    /// There are nodes that serve the same store and are not heard.
    has_unreachable_peer: AtomicBool,
    /// Something was not told.
    publish_dropped: AtomicBool,
    /// Something was not heard.
    receive_dropped: AtomicBool,
    /// Messages on their way to Redis.
    in_flight: AtomicUsize,
}

impl BusStatus {
    fn set_up(&self, up: bool) {
        *self.up_since.lock().unwrap_or_else(PoisonError::into_inner) = up.then(Instant::now);
    }

    fn peers(&self) -> MutexGuard<'_, HashSet<NodeId>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up_for(&self) -> Option<Duration> {
        self.up_since.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }
}

impl RedisBus {
    /// The handle, and what [`RedisBusParts::start`] makes a bus of.
    #[must_use]
    pub fn new(client: Arc<RedisClient>, node: NodeId) -> (Arc<Self>, RedisBusParts) {
        let (commands_tx, commands_rx) = mpsc::unbounded_channel();
        let (send_tx, send_rx) = mpsc::channel(SEND_BUFFER);
        let status = Arc::new(BusStatus::default());
        let bus = Self { commands_tx, send_tx, status: status.clone() };
        (Arc::new(bus), RedisBusParts { client, node, commands_rx, send_rx, status })
    }

    fn send(&self, stream: Option<StreamKey>, message: Message) {
        self.status.in_flight.fetch_add(1, Ordering::SeqCst);
        if self.send_tx.try_send((stream, message)).is_err() {
            self.status.in_flight.fetch_sub(1, Ordering::SeqCst);
            self.status.publish_dropped.store(true, Ordering::SeqCst);
        }
    }

    /// Whether to tell at all. What is not told while Redis is away is made up for by a doubt; while the bus is young,
    /// others may be there who were not heard yet.
    fn can_publish(&self) -> bool {
        match self.status.up_for() {
            None => {
                self.status.publish_dropped.store(true, Ordering::SeqCst);
                false
            }
            Some(up) => up < GRACE || !self.status.peers().is_empty(),
        }
    }
}

impl Bus for RedisBus {
    fn follow(&self, stream: &StreamKey) -> BoxFuture<'static, ()> {
        let (confirm, confirmed) = oneshot::channel();
        let _ = self.commands_tx.send(Command::Follow(stream.clone(), confirm));
        // Where the connection breaks, nobody confirms: then the session looks into the store anyway.
        confirmed.map(drop).boxed()
    }

    fn unfollow(&self, stream: &StreamKey) {
        let _ = self.commands_tx.send(Command::Unfollow(stream.clone()));
    }

    fn is_complete(&self) -> bool {
        self.status.up_for().is_some_and(|up| up >= GRACE) && !self.status.has_unreachable_peer.load(Ordering::SeqCst)
    }

    fn publish(&self, events: &[Arc<PublishedEvent>]) {
        if events.is_empty() || !self.can_publish() {
            return;
        }
        for published in events {
            let event = published.event();
            let broadcast = event.offsets.broadcast.map(|_| StreamKey::Broadcast);
            let streams =
                [event.user_id.clone().map(StreamKey::User), Some(StreamKey::App(event.app_id.clone())), broadcast];
            for stream in streams.into_iter().flatten() {
                self.send(Some(stream), Message::Event(published.clone()));
            }
        }
    }

    fn send_frame(&self, stream: &StreamKey, frame: &Bytes) {
        if self.can_publish() {
            self.send(Some(stream.clone()), Message::Frame(frame.clone()));
        }
    }

    fn request_resync(&self) {
        if self.can_publish() {
            self.send(None, Message::Resync);
        }
    }
}

#[async_trait]
impl NodeBus for RedisBus {
    fn state(&self) -> BusState {
        match self.status.up_for() {
            None => BusState::Away,
            Some(_) if self.status.has_unreachable_peer.load(Ordering::SeqCst) => BusState::Split,
            Some(_) => BusState::Connected,
        }
    }

    fn credentials_changed(&self) {
        if self.can_publish() {
            self.send(None, Message::Credentials);
        }
    }

    fn set_known_nodes(&self, others: &[NodeId]) {
        let peers = self.status.peers();
        let has_unreachable_peer = others.iter().any(|node| !peers.contains(node));
        self.status.has_unreachable_peer.store(has_unreachable_peer, Ordering::SeqCst);
    }

    async fn flush(&self) {
        let begun = Instant::now();
        while self.status.in_flight.load(Ordering::SeqCst) > 0 && begun.elapsed() < FLUSH {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
