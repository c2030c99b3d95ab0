//! One thread's sockets: reads them, answers what concerns the connection alone, and writes what sessions pushed
//! within one tick with one `writev` a socket. One task, one timer and one read buffer, however many sockets.

mod handle;
mod wheel;

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use actix::{Addr, dev::SendError};
use bytes::Bytes;
pub(crate) use handle::SocketLoopHandle;
pub(crate) use handle::SocketSignal;
use handle::{Command, CommandQueue};
use slotmap::SlotMap;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use wheel::{Deadlines, Due, Heartbeats};

use crate::{
    metric_names,
    realtime::RealtimeConfig,
    protocol::{
        ClientFrame, Close, ServerFrame, bare_close_frame, close_frame, parse_client_frame, ping_frame, pong_frame,
    },
    registry::{Join, Registry},
    session::ToSession,
    socket::{NewSocket, Incoming, Phase, Read, Socket},
};

slotmap::new_key_type! {
    /// One socket of one pump. A key outlives its socket: what is pushed to it then goes nowhere.
    pub(crate) struct SocketKey;
}

/// The timer's period: how exact heartbeats, expiries and drains are.
const TICK: Duration = Duration::from_millis(250);
const READ_BUFFER_BYTES: usize = 32 * 1024;
/// Reads of one socket in one tick; what is left waits for the next, so that no socket starves the others.
const READS_A_TICK: usize = 4;
/// How long a socket may wait for its session to welcome it.
const JOINING: Duration = Duration::from_secs(10);
/// How long a closed socket may take to answer the close before it is dropped.
const LINGER: Duration = Duration::from_secs(2);

/// The bounds that sockets are held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SocketBounds {
    pub heartbeat: Duration,
    pub max_frame_bytes: usize,
    pub max_backlog_bytes: usize,
}

impl SocketBounds {
    pub(crate) fn from_config(config: &RealtimeConfig) -> Self {
        Self {
            heartbeat: config.heartbeat,
            max_frame_bytes: config.max_frame_bytes,
            max_backlog_bytes: config.max_backlog_bytes,
        }
    }
}

pub(crate) struct SocketLoop {
    handle: Arc<CommandQueue>,
    sockets: SlotMap<SocketKey, Socket>,
    bounds: SocketBounds,
    registry: Arc<RwLock<Addr<Registry>>>,
    heartbeats: Heartbeats,
    deadlines: Deadlines,
    timer: Interval,
    buffer: Box<[u8]>,
    /// Sockets with something to write at the end of this tick.
    dirty: Vec<SocketKey>,
    draining: bool,
    open: Arc<AtomicUsize>,
    /// Frames and bytes queued in this tick.
    queued: (u64, u64),
}

impl SocketLoop {
    pub(crate) fn new(
        handle: &SocketLoopHandle,
        registry: Arc<RwLock<Addr<Registry>>>,
        bounds: SocketBounds,
        open: Arc<AtomicUsize>,
    ) -> Self {
        let mut timer = tokio::time::interval(TICK);
        open.store(0, Ordering::SeqCst);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            handle: handle.handle(),
            sockets: SlotMap::with_key(),
            bounds,
            registry,
            heartbeats: Heartbeats::new(bounds.heartbeat, TICK),
            deadlines: Deadlines::default(),
            timer,
            buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            dirty: Vec::new(),
            draining: false,
            open,
            queued: (0, 0),
        }
    }

    /// Pumps for ever. The task must not be under tokio's cooperative budget, which is meant for one connection's
    /// share of work and not for all of a thread's.
    pub(crate) async fn run(mut self) {
        tokio::task::unconstrained(poll_fn(|cx| self.poll(cx))).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.handle.register(cx.waker());
        let (commands, ready) = self.handle.take();
        for command in commands {
            self.apply(command);
        }
        for key in ready {
            self.guarded(key, Self::on_ready);
        }
        while self.timer.poll_tick(cx).is_ready() {
            self.on_tick();
        }
        for key in std::mem::take(&mut self.dirty) {
            self.guarded(key, Self::flush);
        }
        let (frames, bytes) = std::mem::take(&mut self.queued);
        if frames > 0 {
            metrics::counter!(metric_names::FRAMES_SENT).increment(frames);
            metrics::counter!(metric_names::BYTES_SENT).increment(bytes);
        }
        Poll::Pending
    }

    /// Runs one socket's work so that its panic is its own end and nobody else's.
    fn guarded(&mut self, key: SocketKey, work: fn(&mut Self, SocketKey)) {
        if catch_unwind(AssertUnwindSafe(|| work(self, key))).is_err() {
            tracing::error!("socket panicked; closing it: report it with the panic above");
            self.remove(key);
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Adopt(new_socket) => self.adopt(*new_socket),
            Command::Join { key, session } => {
                if let Some(socket) = self.sockets.get_mut(key)
                    && matches!(socket.phase, Phase::Joining)
                {
                    socket.phase = Phase::Open(session);
                    self.guarded(key, Self::on_joined);
                }
            }
            Command::Push { key, frame } => self.queue(key, frame),
            Command::TellWhenDrained { key } => {
                if let Some(socket) = self.sockets.get_mut(key) {
                    socket.tell_when_drained = true;
                    self.mark_dirty(key);
                }
            }
            // The moment that was noted comes first, finds this one and notes it in its place: a socket has one note,
            // however often it is refreshed. What an earlier token allowed, a shorter one does not take back.
            Command::Refreshed { key, at } => {
                if let Some(socket) = self.sockets.get_mut(key) {
                    socket.expires_at = socket.expires_at.max(Some(at));
                }
            }
            Command::Close { key, close } => self.close(key, close),
            Command::CloseAll(close) => {
                for key in self.sockets.keys().collect::<Vec<_>>() {
                    self.close(key, close);
                }
            }
            Command::CloseRevoked(refused) => {
                let covered =
                    |socket: &Socket| socket.identity.as_deref().is_some_and(|identity| refused.covers(identity));
                let keys: Vec<_> =
                    self.sockets.iter().filter(|(_, socket)| covered(socket)).map(|(key, _)| key).collect();
                for key in keys {
                    self.close(key, Close::Revoked);
                }
            }
            Command::Drain { over } => {
                self.draining = true;
                let now = Instant::now();
                for key in self.sockets.keys() {
                    self.deadlines.add(now + over.mul_f64(rand::random()), key, Due::Drain);
                }
            }
        }
    }

    fn adopt(&mut self, new_socket: NewSocket) {
        let now = Instant::now();
        let handle = &self.handle;
        let mut refused = None;
        let shown_expiry = new_socket.expiry().map(|expiry| expiry.at);
        let inserted = self.sockets.try_insert_with_key(|key| {
            let (socket, close) = Socket::new(new_socket, SocketSignal::new(handle.clone(), key), now)?;
            refused = close;
            Ok::<_, std::io::Error>(socket)
        });
        let key = match inserted {
            Ok(key) => key,
            Err(error) => {
                tracing::warn!(%error, "socket could not be adopted");
                return;
            }
        };
        self.open.fetch_add(1, Ordering::SeqCst);
        self.heartbeats.add(key);
        if let Some(close) = refused.or_else(|| self.draining.then_some(Close::GoingAway)) {
            self.close(key, close);
            self.guarded(key, Self::on_ready);
            return;
        }
        let socket = &mut self.sockets[key];
        if let Some(at) = socket.expires_at {
            self.deadlines.add(at, key, Due::Expiry);
        }
        let deflates = socket.deflates();
        if let (Some(identity), Some(permit)) = (&socket.identity, &mut socket.permit) {
            permit.attached_to(key);
            // One message a place, and places are bounded.
            let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
            let join = Join { socket: key, identity: identity.clone(), expires_at: shown_expiry, deflates };
            registry.do_send(join);
            self.deadlines.add(now + JOINING, key, Due::Welcome);
        } else {
            self.guarded(key, Self::on_joined);
        }
    }

    /// Looks at what came behind the upgrade request, then begins to read.
    fn on_joined(&mut self, key: SocketKey) {
        self.take_messages(key);
        self.on_ready(key);
    }

    fn on_ready(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.signal.clear();
        if socket.needs_flush() {
            self.mark_dirty(key);
        }
        for _ in 0..READS_A_TICK {
            let Some(socket) = self.sockets.get_mut(key) else { return };
            // Until there is a session nobody looks at messages; but an end of the connection is seen, and a pong heard.
            let is_joining = matches!(socket.phase, Phase::Joining);
            if is_joining && socket.unparsed_bytes() >= self.bounds.max_frame_bytes {
                return;
            }
            match socket.read(&mut self.buffer) {
                Read::Some(count) => {
                    socket.last_heard = Instant::now();
                    if !socket.is_reading_stopped() {
                        socket.feed(&self.buffer[..count]);
                        if !is_joining {
                            self.take_messages(key);
                        }
                    }
                }
                Read::Nothing => return,
                Read::End => return self.remove(key),
            }
        }
        if let Some(socket) = self.sockets.get(key) {
            socket.signal.raise();
        }
    }

    fn take_messages(&mut self, key: SocketKey) {
        let max = self.bounds.max_frame_bytes;
        while let Some(socket) = self.sockets.get_mut(key) {
            if socket.is_reading_stopped() {
                return;
            }
            match socket.next_incoming(max) {
                Ok(Some(incoming)) => self.on_incoming(key, incoming),
                Ok(None) => return,
                Err(close) => return self.close_violation(key, close),
            }
        }
    }

    fn on_incoming(&mut self, key: SocketKey, incoming: Incoming) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        match (incoming, &socket.phase) {
            (Incoming::Close(_), Phase::Closing { .. }) => {
                // The answer to our close: the handshake is complete.
                socket.finish_after_flush();
                self.mark_dirty(key);
            }
            (_, Phase::Closing { .. } | Phase::Joining) | (Incoming::Pong, _) => {}
            (Incoming::Close(reason), _) => {
                let frame = reason
                    .map_or_else(bare_close_frame, |reason| crate::protocol::close_frame_with(reason.code.into(), ""));
                socket.begin_close(Close::Normal, frame);
                socket.finish_after_flush();
                self.deadlines.add(Instant::now() + LINGER, key, Due::Linger);
                self.mark_dirty(key);
            }
            (Incoming::Ping(payload), _) => self.queue(key, pong_frame(&payload)),
            #[cfg(feature = "echo")]
            (Incoming::Text(text), Phase::Echo) => {
                let frame = crate::protocol::text_frame(&text);
                let frame = if socket.deflates() { crate::protocol::deflated(&frame) } else { frame };
                self.queue(key, frame);
            }
            #[cfg(feature = "echo")]
            (Incoming::Binary(data), Phase::Echo) => self.queue(key, crate::protocol::binary_frame(&data)),
            (Incoming::Binary(_), _) => self.close_violation(key, Close::Unsupported),
            (Incoming::Text(text), Phase::Open(session)) => match parse_client_frame(&text) {
                Ok(ClientFrame::Ping { id }) => self.queue(key, ServerFrame::Pong { id: id.as_ref() }.encode()),
                Ok(frame) => match session.try_send(ToSession::Frame { socket: key, frame }) {
                    Ok(()) => {}
                    Err(SendError::Full(_)) => {
                        let message = "too many frames at once; send this one again";
                        self.queue(key, ServerFrame::Error { code: "overloaded", message, id: None }.encode());
                    }
                    Err(SendError::Closed(_)) => self.close(key, Close::Internal),
                },
                Err(mistake) => {
                    let frame =
                        ServerFrame::Error { code: mistake.code, message: &mistake.message, id: mistake.id.as_ref() };
                    let frame = frame.encode();
                    self.queue(key, frame);
                }
            },
        }
    }

    fn queue(&mut self, key: SocketKey, frame: Bytes) {
        if let Some(socket) = self.sockets.get_mut(key)
            && !socket.is_closing()
        {
            self.queued.0 += 1;
            self.queued.1 += frame.len() as u64;
            socket.queue(frame);
            self.mark_dirty(key);
        }
    }

    fn mark_dirty(&mut self, key: SocketKey) {
        if let Some(socket) = self.sockets.get_mut(key)
            && !std::mem::replace(&mut socket.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    fn flush(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.dirty = false;
        match socket.flush() {
            Poll::Ready(Ok(())) => {
                if socket.is_finished() {
                    return self.remove(key);
                }
                if socket.is_closing() {
                    socket.shutdown();
                } else if std::mem::take(&mut socket.tell_when_drained)
                    && let Phase::Open(session) = &socket.phase
                {
                    // One message a request of the session's, which waits for it: bounded by the sockets.
                    session.do_send(ToSession::Drained { socket: key });
                }
            }
            Poll::Ready(Err(_)) => self.remove(key),
            Poll::Pending if !socket.is_closing() && socket.backlog_bytes() > self.bounds.max_backlog_bytes => {
                tracing::info!(backlog_bytes = socket.backlog_bytes(), "socket too slow; closing it");
                self.close(key, Close::TooSlow);
            }
            Poll::Pending => {}
        }
    }

    /// Closes with what waits unsent given up.
    fn close(&mut self, key: SocketKey, close: Close) {
        self.begin_close(key, close, false);
    }

    /// The same after a violation: what the peer still sends cannot be understood.
    fn close_violation(&mut self, key: SocketKey, close: Close) {
        self.begin_close(key, close, true);
    }

    fn begin_close(&mut self, key: SocketKey, close: Close, reading_stopped: bool) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if socket.is_closing() && !reading_stopped {
            return;
        }
        metrics::counter!(metric_names::SOCKET_CLOSES, "code" => close.code().to_string()).increment(1);
        if matches!(close, Close::GoingAway | Close::TokenExpired) {
            socket.begin_close_in_order(close, close_frame(close));
        } else {
            socket.begin_close(close, close_frame(close));
        }
        if reading_stopped {
            socket.stop_reading();
        }
        self.deadlines.add(Instant::now() + LINGER, key, Due::Linger);
        self.mark_dirty(key);
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        for (key, due) in self.deadlines.due(now) {
            let Some(socket) = self.sockets.get(key) else { continue };
            match due {
                Due::Expiry if socket.expires_at.is_some_and(|at| at <= now) => self.close(key, Close::TokenExpired),
                Due::Linger if socket.is_closing() => self.remove(key),
                // The store does not answer, or the session ended before it heard of this socket: the client tries anew.
                Due::Welcome if matches!(socket.phase, Phase::Joining) => self.close(key, Close::Internal),
                Due::Drain => self.close(key, Close::GoingAway),
                Due::Expiry => {
                    if let Some(at) = socket.expires_at {
                        self.deadlines.add(at, key, Due::Expiry);
                    }
                }
                Due::Linger | Due::Welcome => {}
            }
        }
        let Some(beating) = self.heartbeats.turn() else { return };
        let silence = self.bounds.heartbeat * 2;
        let mut alive = Vec::with_capacity(beating.len());
        for key in beating {
            let Some(socket) = self.sockets.get(key) else { continue };
            if now.duration_since(socket.last_heard) + TICK >= silence {
                self.close(key, Close::NoHeartbeat);
            } else {
                self.queue(key, ping_frame());
            }
            alive.push(key);
        }
        self.heartbeats.put_back(alive);
    }

    fn remove(&mut self, key: SocketKey) {
        if let Some(socket) = self.sockets.remove(key) {
            self.open.fetch_sub(1, Ordering::SeqCst);
            tracing::debug!(
                user_id = socket.identity.as_ref().and_then(|identity| identity.user()).map(tracing::field::display),
                app_id = socket.identity.as_ref().map(|identity| tracing::field::display(identity.app())),
                close_code = socket.closed_with.map(Close::code),
                "socket ended"
            );
        }
    }
}
