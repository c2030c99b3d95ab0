//! How other actors and the reactor reach a socket loop: commands and sockets ready for I/O, collected until its next turn.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
    time::Duration,
};

use actix::Recipient;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::{sync::oneshot, time::Instant};

use super::key::SocketKey;
use crate::{model::Grant, protocol::Close, session::messages::SessionInput, socket::new_socket::NewSocket};

/// What a socket loop is to do.
pub(crate) enum Command {
    Adopt(Box<NewSocket>),
    Open { key: SocketKey, session: Recipient<SessionInput> },
    Push { key: SocketKey, frame: Bytes },
    NotifyWhenDrained { key: SocketKey },
    Probe { key: SocketKey },
    Refreshed { key: SocketKey, at: Instant },
    Close { key: SocketKey, close: Close },
    CloseAll(Close),
    Grants(oneshot::Sender<HashSet<Grant>>),
    CloseGrants(Arc<HashMap<Grant, Close>>),
    Drain { over: Duration },
}

/// The handle of a socket loop. Cheap to clone, usable on every thread.
#[derive(Clone, Default)]
pub(crate) struct SocketLoopHandle(Arc<CommandQueue>);

impl SocketLoopHandle {
    /// The loop's end of the queue.
    pub(super) fn queue(&self) -> Arc<CommandQueue> {
        self.0.clone()
    }

    /// Takes over a socket.
    pub(crate) fn adopt(&self, socket: NewSocket) {
        self.0.send(Command::Adopt(Box::new(socket)));
    }

    /// Gives a socket its session. From now on its messages are read.
    pub(crate) fn open(&self, key: SocketKey, session: Recipient<SessionInput>) {
        self.0.send(Command::Open { key, session });
    }

    /// Queues a whole WebSocket frame. Everything queued for a socket within one turn is written together.
    pub(crate) fn push(&self, key: SocketKey, frame: Bytes) {
        self.0.send(Command::Push { key, frame });
    }

    /// Has the session sent `Drained` once everything pushed so far is with the kernel.
    pub(crate) fn notify_when_drained(&self, key: SocketKey) {
        self.0.send(Command::NotifyWhenDrained { key });
    }

    /// Pings a socket, and drops it if it does not answer within [`PROBE`](super::PROBE).
    pub(crate) fn probe(&self, key: SocketKey) {
        self.0.send(Command::Probe { key });
    }

    /// The holder of a socket showed a token that is valid until `at`.
    pub(crate) fn refreshed(&self, key: SocketKey, at: Instant) {
        self.0.send(Command::Refreshed { key, at });
    }

    /// Closes one socket.
    pub(crate) fn close(&self, key: SocketKey, close: Close) {
        self.0.send(Command::Close { key, close });
    }

    /// Closes every socket of the loop.
    pub(crate) fn close_all(&self, close: Close) {
        self.0.send(Command::CloseAll(close));
    }

    /// What the sockets of the loop rest on.
    pub(crate) async fn grants(&self) -> HashSet<Grant> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Command::Grants(answer));
        // Without an answer the loop has ended, and its sockets with it.
        answered.await.unwrap_or_default()
    }

    /// Closes the sockets that rest on these.
    pub(crate) fn close_grants(&self, grants: Arc<HashMap<Grant, Close>>) {
        self.0.send(Command::CloseGrants(grants));
    }

    /// Closes every socket with 1001, each at a random moment within `over`, and new ones at once.
    pub(crate) fn drain(&self, over: Duration) {
        self.0.send(Command::Drain { over });
    }
}

/// Commands and ready sockets, in the order in which they came.
#[derive(Default)]
pub(super) struct CommandQueue {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Queue {
    commands: Vec<Command>,
    ready: Vec<SocketKey>,
    /// Whether the loop was woken since it last took the queue.
    is_woken: bool,
}

impl CommandQueue {
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(super) fn take(&self) -> (Vec<Command>, Vec<SocketKey>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.is_woken = false;
        (std::mem::take(&mut queue.commands), std::mem::take(&mut queue.ready))
    }

    fn send(&self, command: Command) {
        self.add(|queue| queue.commands.push(command));
    }

    fn add(&self, change: impl FnOnce(&mut Queue)) {
        let was_woken = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut queue);
            std::mem::replace(&mut queue.is_woken, true)
        };
        if !was_woken {
            self.waker.wake();
        }
    }
}

/// The waker of one socket: puts its key on the loop's list of ready sockets, at most once until the loop takes it.
pub(crate) struct SocketSignal {
    queue: Arc<CommandQueue>,
    key: SocketKey,
    is_raised: AtomicBool,
}

impl SocketSignal {
    pub(super) fn new(queue: Arc<CommandQueue>, key: SocketKey) -> Arc<Self> {
        Arc::new(Self { queue, key, is_raised: AtomicBool::new(false) })
    }

    /// The loop took the key off its list.
    pub(crate) fn clear(&self) {
        self.is_raised.store(false, Ordering::Release);
    }

    /// Puts the key on the list.
    pub(crate) fn raise(&self) {
        if !self.is_raised.swap(true, Ordering::AcqRel) {
            self.queue.add(|queue| queue.ready.push(self.key));
        }
    }
}

impl Wake for SocketSignal {
    fn wake(self: Arc<Self>) {
        self.raise();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.raise();
    }
}
