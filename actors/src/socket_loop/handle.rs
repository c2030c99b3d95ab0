//! How other actors and the reactor reach a pump: commands and ready sockets, collected until its next tick.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
    time::Duration,
};

use actix::Addr;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::SocketKey;
use crate::{model::RevokedCredentials, protocol::Close, session::Session, socket::NewSocket};

/// What a pump is told.
#[derive(Debug)]
pub(super) enum Command {
    Adopt(Box<NewSocket>),
    Join { key: SocketKey, session: Addr<Session> },
    Push { key: SocketKey, frame: Bytes },
    TellWhenDrained { key: SocketKey },
    Refreshed { key: SocketKey, at: Instant },
    Close { key: SocketKey, close: Close },
    CloseAll(Close),
    CloseRevoked(Arc<RevokedCredentials>),
    Drain { over: Duration },
}

/// A pump's handle: cheap to clone, good on every thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct SocketLoopHandle(Arc<CommandQueue>);

impl SocketLoopHandle {
    pub(super) fn handle(&self) -> Arc<CommandQueue> {
        self.0.clone()
    }

    /// Takes over a socket.
    pub(crate) fn adopt(&self, new_socket: NewSocket) {
        self.0.tell(Command::Adopt(Box::new(new_socket)));
    }

    /// Gives a socket its session; from now on it is read.
    pub(crate) fn join(&self, key: SocketKey, session: Addr<Session>) {
        self.0.tell(Command::Join { key, session });
    }

    /// Pushes a whole WebSocket frame; all that is pushed within one tick goes out together.
    pub(crate) fn push(&self, key: SocketKey, frame: Bytes) {
        self.0.tell(Command::Push { key, frame });
    }

    /// Asks for a `Drained` when all pushed so far is with the kernel.
    pub(crate) fn tell_when_drained(&self, key: SocketKey) {
        self.0.tell(Command::TellWhenDrained { key });
    }

    /// A socket's holder showed a token that is good until `at`.
    pub(crate) fn refreshed(&self, key: SocketKey, at: Instant) {
        self.0.tell(Command::Refreshed { key, at });
    }

    pub(crate) fn close(&self, key: SocketKey, close: Close) {
        self.0.tell(Command::Close { key, close });
    }

    pub(crate) fn close_all(&self, close: Close) {
        self.0.tell(Command::CloseAll(close));
    }

    /// Closes with 4003 whoever holds a credential that stopped being good.
    pub(crate) fn close_revoked(&self, refused: Arc<RevokedCredentials>) {
        self.0.tell(Command::CloseRevoked(refused));
    }

    /// Closes everybody with 1001, each at a random moment within `over`, and newcomers at once.
    pub(crate) fn drain(&self, over: Duration) {
        self.0.tell(Command::Drain { over });
    }
}

#[derive(Debug, Default)]
pub(super) struct CommandQueue {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    commands: Vec<Command>,
    ready: Vec<SocketKey>,
    /// Whether the pump was woken since it last looked.
    woken: bool,
}

impl CommandQueue {
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(super) fn take(&self) -> (Vec<Command>, Vec<SocketKey>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.woken = false;
        (std::mem::take(&mut queue.commands), std::mem::take(&mut queue.ready))
    }

    fn tell(&self, command: Command) {
        self.add(|queue| queue.commands.push(command));
    }

    fn add(&self, change: impl FnOnce(&mut Queue)) {
        let was_woken = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut queue);
            std::mem::replace(&mut queue.woken, true)
        };
        if !was_woken {
            self.waker.wake();
        }
    }
}

/// A socket's waker: puts its key on the pump's list, once until the pump looked.
#[derive(Debug)]
pub(crate) struct SocketSignal {
    handle: Arc<CommandQueue>,
    key: SocketKey,
    raised: AtomicBool,
}

impl SocketSignal {
    pub(super) fn new(handle: Arc<CommandQueue>, key: SocketKey) -> Arc<Self> {
        Arc::new(Self { handle, key, raised: AtomicBool::new(false) })
    }

    pub(crate) fn clear(&self) {
        self.raised.store(false, Ordering::Release);
    }

    pub(crate) fn raise(&self) {
        if !self.raised.swap(true, Ordering::AcqRel) {
            self.handle.add(|queue| queue.ready.push(self.key));
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
