//! The bus over Redis pub/sub: a channel a stream, subscribed to while somebody here follows it. This is the handle; the
//! connection is kept by `redis/keeper.rs`.

mod keeper;

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
    model::{NodeId, Published, StreamKey},
    ports::Bus,
};
use tokio::sync::{mpsc, oneshot};

pub use self::keeper::RedisBusParts;
use super::{BusState, NodeBus, message::Message};
use crate::redis_client::RedisClient;

/// Messages that may wait to be told; past that other nodes are told of a doubt instead.
const OUTBOX: usize = 16 * 1024;
/// How long a bus that is back is not relied upon: until then others may not have noticed that somebody listens.
const GRACE: Duration = Duration::from_secs(3);
/// How long a stopping node waits for the last messages to be on their way.
const FLUSH: Duration = Duration::from_secs(1);

/// The bus as everybody uses it.
pub struct RedisBus {
    orders: mpsc::UnboundedSender<Order>,
    outbox: mpsc::Sender<Outgoing>,
    status: Arc<Status>,
}

/// What sessions want to hear. One a user or app that comes or goes, and those are bounded.
enum Order {
    Follow(StreamKey, oneshot::Sender<()>),
    Unfollow(StreamKey),
}

/// A message, and the stream on whose channel it goes; `None`: to the nodes themselves.
type Outgoing = (Option<StreamKey>, Message);

/// What handle and keeper both know.
#[derive(Default)]
struct Status {
    up_since: Mutex<Option<Instant>>,
    /// Other nodes that are heard.
    peers: Mutex<HashSet<NodeId>>,
    /// There are nodes that serve the same store and are not heard.
    some_are_mute: AtomicBool,
    /// Something was not told.
    untold: AtomicBool,
    /// Something was not heard.
    unheard: AtomicBool,
    /// Messages on their way to Redis.
    leaving: AtomicUsize,
}

impl Status {
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
        let (orders, ordered) = mpsc::unbounded_channel();
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let status = Arc::new(Status::default());
        let bus = Self { orders, outbox, status: status.clone() };
        (Arc::new(bus), RedisBusParts { client, node, ordered, outgoing, status })
    }

    fn send(&self, stream: Option<StreamKey>, message: Message) {
        self.status.leaving.fetch_add(1, Ordering::SeqCst);
        if self.outbox.try_send((stream, message)).is_err() {
            self.status.leaving.fetch_sub(1, Ordering::SeqCst);
            self.status.untold.store(true, Ordering::SeqCst);
        }
    }

    /// Whether to tell at all. What is not told while Redis is away is made up for by a doubt; while the bus is young,
    /// others may be there who were not heard yet.
    fn can_tell(&self) -> bool {
        match self.status.up_for() {
            None => {
                self.status.untold.store(true, Ordering::SeqCst);
                false
            }
            Some(up) => up < GRACE || !self.status.peers().is_empty(),
        }
    }
}

impl Bus for RedisBus {
    fn follow(&self, stream: &StreamKey) -> BoxFuture<'static, ()> {
        let (confirm, confirmed) = oneshot::channel();
        let _ = self.orders.send(Order::Follow(stream.clone(), confirm));
        // Where the connection breaks, nobody confirms: then the session looks into the store anyway.
        confirmed.map(drop).boxed()
    }

    fn unfollow(&self, stream: &StreamKey) {
        let _ = self.orders.send(Order::Unfollow(stream.clone()));
    }

    fn hears_all(&self) -> bool {
        self.status.up_for().is_some_and(|up| up >= GRACE) && !self.status.some_are_mute.load(Ordering::SeqCst)
    }

    fn publish(&self, events: &[Arc<Published>]) {
        if events.is_empty() || !self.can_tell() {
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

    fn tell(&self, stream: &StreamKey, frame: &Bytes) {
        if self.can_tell() {
            self.send(Some(stream.clone()), Message::Frame(frame.clone()));
        }
    }

    fn doubt(&self) {
        if self.can_tell() {
            self.send(None, Message::Doubt);
        }
    }
}

#[async_trait]
impl NodeBus for RedisBus {
    fn state(&self) -> BusState {
        match self.status.up_for() {
            None => BusState::Away,
            Some(_) if self.status.some_are_mute.load(Ordering::SeqCst) => BusState::Split,
            Some(_) => BusState::Connected,
        }
    }

    fn credentials_changed(&self) {
        if self.can_tell() {
            self.send(None, Message::Credentials);
        }
    }

    fn know(&self, others: &[NodeId]) {
        let peers = self.status.peers();
        let some_are_mute = others.iter().any(|node| !peers.contains(node));
        self.status.some_are_mute.store(some_are_mute, Ordering::SeqCst);
    }

    async fn flush(&self) {
        let begun = Instant::now();
        while self.status.leaving.load(Ordering::SeqCst) > 0 && begun.elapsed() < FLUSH {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
