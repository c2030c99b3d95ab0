//! The bus over Redis pub/sub: one channel a stream, subscribed to while somebody here follows it. This is the handle; its
//! task, in `redis/task.rs`, keeps the connection.

mod connection;
mod status;
mod task;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use oriva_hub_actors::{
    Tasks,
    model::{NodeId, StreamKey},
    ports::Bus,
    protocol::PublishedEvent,
};
use tokio::sync::{mpsc, oneshot};

use self::{
    status::{BusStatus, Command, Outgoing},
    task::RedisBusTask,
};
use super::{BusEvent, NodeBus, message::Message, state::BusState};
use crate::redis_client::RedisClient;

/// Messages that may wait to be sent. Past that they are dropped, and the other nodes are told to resynchronise.
const SEND_BUFFER: usize = 16 * 1024;
/// Bytes of those messages, whose frames may also be held by sockets.
const SEND_BUFFER_BYTES: usize = 64 * 1024 * 1024;
/// What a message takes beside its frame.
const MESSAGE_OVERHEAD: usize = 128;
/// Events of the bus that may wait to be routed.
const EVENT_BUFFER: usize = 256;
/// How long a new connection is not relied upon: until then other nodes may not know yet that this one listens.
const GRACE: Duration = Duration::from_secs(3);
/// How long a stopping node waits for its last messages to be sent.
const FLUSH: Duration = Duration::from_secs(1);

/// The handle.
pub struct RedisBus {
    commands: mpsc::UnboundedSender<Command>,
    outgoing: mpsc::Sender<Outgoing>,
    status: Arc<BusStatus>,
}

impl RedisBus {
    /// Starts the bus on a thread of its own. What it learns comes from the receiver.
    #[must_use]
    pub fn start(client: Arc<RedisClient>, node: NodeId, tasks: &Tasks) -> (Arc<Self>, mpsc::Receiver<BusEvent>) {
        let (commands, commands_rx) = mpsc::unbounded_channel();
        let (outgoing, outgoing_rx) = mpsc::channel(SEND_BUFFER);
        let (events_tx, events) = mpsc::channel(EVENT_BUFFER);
        let status = Arc::new(BusStatus::default());
        let task = RedisBusTask::new(client, node, status.clone(), commands_rx, outgoing_rx, events_tx);
        task.start(tasks.clone());
        (Arc::new(Self { commands, outgoing, status }), events)
    }

    fn send(&self, stream: Option<StreamKey>, message: Message, frame_bytes: usize) {
        let bytes = MESSAGE_OVERHEAD + frame_bytes;
        self.status.queued(bytes);
        let fits = self.status.in_flight_bytes.load(Ordering::SeqCst) <= SEND_BUFFER_BYTES;
        if !fits || self.outgoing.try_send(Outgoing { stream, message, bytes }).is_err() {
            self.status.unqueued(1, bytes);
            self.status.publish_dropped.store(true, Ordering::SeqCst);
        }
    }

    /// Whether to send at all. While Redis is away messages are dropped, and a resync is requested once it is back. While
    /// the connection is new, nodes may listen that were not heard yet.
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
        let _ = self.commands.send(Command::Follow(stream.clone(), confirm));
        // Nobody confirms where the connection breaks. Then the registry asks the store anyway.
        confirmed.map(drop).boxed()
    }

    fn unfollow(&self, stream: &StreamKey) {
        let _ = self.commands.send(Command::Unfollow(stream.clone()));
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
                self.send(Some(stream), Message::Event(published.clone()), event.data.as_str().len());
            }
        }
    }

    fn send_frame(&self, stream: &StreamKey, frame: &Bytes) {
        if self.can_publish() {
            self.send(Some(stream.clone()), Message::Frame(frame.clone()), frame.len());
        }
    }

    fn request_probe(&self, stream: &StreamKey) {
        if self.can_publish() {
            self.send(Some(stream.clone()), Message::Probe, 0);
        }
    }

    fn request_resync(&self) {
        if self.can_publish() {
            self.send(None, Message::Resync, 0);
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

    fn heard(&self) -> usize {
        self.status.peers().len()
    }

    fn credentials_changed(&self) {
        if self.can_publish() {
            self.send(None, Message::Credentials, 0);
        }
    }

    fn set_known_nodes(&self, others: &[NodeId]) {
        let peers = self.status.peers();
        let has_unreachable_peer = others.iter().any(|node| !peers.contains(node));
        self.status.has_unreachable_peer.store(has_unreachable_peer, Ordering::SeqCst);
    }

    async fn flush(&self) {
        let started = Instant::now();
        while self.status.in_flight.load(Ordering::SeqCst) > 0 && started.elapsed() < FLUSH {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
