//! What the handle of the Redis bus and its task share.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use oriva_hub_actors::model::{NodeId, StreamKey};
use tokio::sync::oneshot;

use crate::bus::message::Message;

/// What sessions ask of the task. One each when a user or app comes or goes, so the queue is bounded by those.
pub(super) enum Command {
    /// Subscribe, and confirm when the server has.
    Follow(StreamKey, oneshot::Sender<()>),
    Unfollow(StreamKey),
}

/// A message to send.
pub(super) struct Outgoing {
    /// The stream on whose channel it goes; `None` for the channel of the nodes.
    pub stream: Option<StreamKey>,
    pub message: Message,
    /// Roughly what it takes in memory while it waits.
    pub bytes: usize,
}

/// The state of the connection.
#[derive(Default)]
pub(super) struct BusStatus {
    up_since: Mutex<Option<Instant>>,
    peers: Mutex<HashSet<NodeId>>,
    /// A node that serves the same store is not heard.
    pub has_unreachable_peer: AtomicBool,
    /// A message was not sent: the other nodes must resynchronise.
    pub publish_dropped: AtomicBool,
    /// A message was not received: this node must resynchronise.
    pub receive_dropped: AtomicBool,
    /// Messages queued or being sent.
    pub in_flight: AtomicUsize,
    /// Bytes of those messages.
    pub in_flight_bytes: AtomicUsize,
}

impl BusStatus {
    pub(super) fn set_up(&self, up: bool) {
        *self.up_since.lock().unwrap_or_else(PoisonError::into_inner) = up.then(Instant::now);
    }

    /// How long the bus has been connected; `None` while it is not.
    pub(super) fn up_for(&self) -> Option<Duration> {
        self.up_since.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    /// The other nodes that are heard.
    pub(super) fn peers(&self) -> MutexGuard<'_, HashSet<NodeId>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a message that waits to be sent.
    pub(super) fn queued(&self, bytes: usize) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        self.in_flight_bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Messages left the queue, sent or not.
    pub(super) fn unqueued(&self, count: usize, bytes: usize) {
        self.in_flight.fetch_sub(count, Ordering::SeqCst);
        self.in_flight_bytes.fetch_sub(bytes, Ordering::SeqCst);
    }
}
