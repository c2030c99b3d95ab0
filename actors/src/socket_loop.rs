//! All sockets of one thread: reads them, answers pings and mistakes itself, and writes what sessions pushed within one
//! turn with one `writev` a socket. One task, one timer and one read buffer, however many sockets.

pub(crate) mod handle;
pub(crate) mod key;
mod wheel;

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use actix::dev::SendError;
use bytes::Bytes;
use slotmap::SlotMap;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use self::{
    handle::{Command, CommandQueue, SocketLoopHandle, SocketSignal},
    key::SocketKey,
    wheel::{Deadline, Deadlines, Heartbeats},
};
use crate::{
    config::RealtimeConfig,
    metric_names,
    model::Identity,
    protocol::{
        ClientFrame, Close, ServerFrame, bare_close_frame, close_frame, parse_client_frame, ping_frame, pong_frame,
    },
    session::messages::{Join, SessionInput},
    socket::{Incoming, Phase, Read, Socket, new_socket::NewSocket},
};

/// Period of the timer, and so the precision of heartbeats, expiries and drains.
const TICK: Duration = Duration::from_millis(250);
const READ_BUFFER_BYTES: usize = 32 * 1024;
/// Reads of one socket in one turn. The rest waits for the next turn, so that no socket starves the others.
const READS_PER_TURN: usize = 4;
/// How long a socket may wait for its `welcome`. Then it is closed and the client tries again.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to answer when somebody else wants its connection.
pub(crate) const PROBE: Duration = Duration::from_secs(3);
/// Below this many entries the heap is not searched for deadlines of sockets that have ended.
const FEW_DEADLINES: usize = 1024;
/// How long a client may take to answer a close frame before its connection is dropped.
const LINGER: Duration = Duration::from_secs(2);

/// The limits of every socket (see [`RealtimeConfig`]).
#[derive(Debug, Clone, Copy)]
struct SocketLimits {
    heartbeat: Duration,
    max_frame_bytes: usize,
    max_backlog_bytes: usize,
}

/// The loop.
pub(crate) struct SocketLoop {
    queue: Arc<CommandQueue>,
    sockets: SlotMap<SocketKey, Socket>,
    limits: SocketLimits,
    heartbeats: Heartbeats,
    deadlines: Deadlines,
    timer: Interval,
    buffer: Box<[u8]>,
    /// Sockets with something to write at the end of this turn.
    dirty: Vec<SocketKey>,
    is_draining: bool,
    /// When the last turn began, and for how long this loop has stood still in all: with the machine, or because it had no
    /// core. No client is silent in that time.
    last_turn: Instant,
    stood: Duration,
    /// Sockets of this loop, for the handle to read.
    open: Arc<AtomicUsize>,
    /// Frames and bytes queued in this turn.
    queued: (u64, u64),
}

impl SocketLoop {
    /// The loop behind `handle`. It keeps `open` at the number of its sockets.
    pub(crate) fn new(handle: &SocketLoopHandle, config: &RealtimeConfig, open: Arc<AtomicUsize>) -> Self {
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        open.store(0, Ordering::SeqCst);
        let limits = SocketLimits {
            heartbeat: config.heartbeat,
            max_frame_bytes: config.max_frame_bytes,
            max_backlog_bytes: config.max_backlog_bytes,
        };
        Self {
            queue: handle.queue(),
            sockets: SlotMap::with_key(),
            limits,
            heartbeats: Heartbeats::new(limits.heartbeat, TICK),
            deadlines: Deadlines::default(),
            timer,
            buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            dirty: Vec::new(),
            is_draining: false,
            last_turn: Instant::now(),
            stood: Duration::ZERO,
            open,
            queued: (0, 0),
        }
    }

    /// Runs until the task is dropped. Outside tokio's cooperative budget, which is meant for one connection's share of
    /// the work and would interrupt a turn that serves thousands.
    pub(crate) async fn run(mut self) {
        tokio::task::unconstrained(poll_fn(|cx| self.poll(cx))).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.queue.register(cx.waker());
        self.begin_turn();
        let (commands, ready) = self.queue.take();
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

    fn begin_turn(&mut self) {
        let now = Instant::now();
        // The timer begins a turn at every tick, so a longer time between two turns is none in which anything happened.
        let between = now - std::mem::replace(&mut self.last_turn, now);
        if between > 2 * TICK {
            self.stood += between - TICK;
        }
    }

    /// The present, without the time in which this loop stood still.
    fn lived(&self) -> Instant {
        Instant::now() - self.stood
    }

    /// Runs the work of one socket. If it panics, that socket is dropped and the others go on.
    fn guarded(&mut self, key: SocketKey, work: fn(&mut Self, SocketKey)) {
        if catch_unwind(AssertUnwindSafe(|| work(self, key))).is_err() {
            tracing::error!("socket panicked; closing it: report it with the panic above");
            self.remove(key);
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Adopt(new_socket) => self.adopt(*new_socket),
            Command::Open { key, session } => {
                if let Some(socket) = self.sockets.get_mut(key)
                    && matches!(socket.phase, Phase::Joining)
                {
                    socket.phase = Phase::Open(session);
                    self.guarded(key, Self::on_open);
                }
            }
            Command::Push { key, frame } => {
                if let Some(socket) = self.sockets.get_mut(key) {
                    socket.is_welcomed = true;
                }
                self.queue(key, frame);
            }
            Command::NotifyWhenDrained { key } => {
                if let Some(socket) = self.sockets.get_mut(key) {
                    socket.notify_when_drained = true;
                    self.mark_dirty(key);
                }
            }
            Command::Probe { key } => {
                if self.sockets.contains_key(key) {
                    self.queue(key, ping_frame());
                    self.deadlines.add(Instant::now() + PROBE, key, Deadline::Probe);
                }
            }
            // The deadline already set comes first, sees the later moment and sets itself anew: so a socket has one
            // deadline however often it is refreshed. A shorter token does not take back what an earlier one allowed.
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
            Command::Grants(answer) => {
                let identities = self.sockets.values().filter_map(|socket| socket.identity.as_deref());
                let _ = answer.send(identities.map(Identity::grant).collect());
            }
            Command::CloseGrants(grants) => {
                let close_of = |socket: &Socket| grants.get(&socket.identity.as_deref()?.grant()).copied();
                let found: Vec<_> =
                    self.sockets.iter().filter_map(|(key, socket)| Some((key, close_of(socket)?))).collect();
                for (key, close) in found {
                    self.close(key, close);
                }
            }
            Command::Drain { over } => {
                self.is_draining = true;
                let now = Instant::now();
                for key in self.sockets.keys() {
                    self.deadlines.add(now + over.mul_f64(rand::random()), key, Deadline::Drain);
                }
            }
        }
    }

    fn adopt(&mut self, mut new_socket: NewSocket) {
        let (now, lived) = (Instant::now(), self.lived());
        let queue = &self.queue;
        let mut rejected = None;
        let subscribe = new_socket.subscribe.take();
        let shown_expiry = new_socket.expiry().map(|expiry| expiry.at);
        let inserted = self.sockets.try_insert_with_key(|key| {
            let (mut socket, close) = Socket::new(new_socket, SocketSignal::new(queue.clone(), key), now)?;
            socket.last_heard = lived;
            rejected = close;
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
        if let Some(close) = rejected.or_else(|| self.is_draining.then_some(Close::GoingAway)) {
            self.close(key, close);
            self.guarded(key, Self::on_ready);
            return;
        }
        let socket = &mut self.sockets[key];
        if let Some(at) = socket.expires_at {
            self.deadlines.add(at, key, Deadline::Expiry);
        }
        let deflate = socket.deflates();
        if let (Some(identity), Some(permit)) = (&socket.identity, &mut socket.permit) {
            let (identity, expires_at) = (identity.clone(), shown_expiry);
            permit.join(Join { socket: key, identity, expires_at, deflate, subscribe });
            self.deadlines.add(now + WELCOME_TIMEOUT, key, Deadline::Welcome);
        } else {
            self.guarded(key, Self::on_open);
        }
    }

    /// Parses what came behind the upgrade request, then begins to read.
    fn on_open(&mut self, key: SocketKey) {
        self.take_messages(key);
        self.on_ready(key);
    }

    fn on_ready(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.signal.clear();
        if socket.needs_flush() {
            self.mark_dirty(key);
        }
        for _ in 0..READS_PER_TURN {
            let Some(socket) = self.sockets.get_mut(key) else { return };
            // Without a session messages are not parsed, but reading goes on: it shows the end of the connection.
            let is_joining = matches!(socket.phase, Phase::Joining);
            if is_joining && socket.unparsed_bytes() >= self.limits.max_frame_bytes {
                return;
            }
            match socket.read(&mut self.buffer) {
                Read::Some(count) => {
                    socket.last_heard = Instant::now() - self.stood;
                    if !socket.is_reading_stopped() {
                        socket.feed(&self.buffer[..count]);
                        if !is_joining {
                            self.take_messages(key);
                        }
                    }
                }
                Read::Pending => return,
                Read::End => return self.remove(key),
            }
        }
        if let Some(socket) = self.sockets.get(key) {
            socket.signal.raise();
        }
    }

    fn take_messages(&mut self, key: SocketKey) {
        let max = self.limits.max_frame_bytes;
        while let Some(socket) = self.sockets.get_mut(key) {
            if socket.is_reading_stopped() {
                return;
            }
            match socket.next_incoming(max) {
                Ok(Some(incoming)) => self.on_incoming(key, incoming),
                Ok(None) => return,
                Err(close) => return self.close_and_stop_reading(key, close),
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
                self.deadlines.add(Instant::now() + LINGER, key, Deadline::Linger);
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
            (Incoming::Binary(_), _) => self.close_and_stop_reading(key, Close::Unsupported),
            (Incoming::Text(text), Phase::Open(session)) => match parse_client_frame(&text) {
                // Before that the session answers, behind its `welcome`.
                Ok(ClientFrame::Ping { id }) if socket.is_welcomed => {
                    self.queue(key, ServerFrame::Pong { id: id.as_ref() }.encode());
                }
                frame => match session.try_send(SessionInput::Frame { socket: key, frame }) {
                    Ok(()) => {}
                    Err(SendError::Full(_)) => {
                        let message = "too many frames at once; send this one again";
                        self.queue(key, ServerFrame::Error { code: "overloaded", message, id: None }.encode());
                    }
                    Err(SendError::Closed(_)) => self.close(key, Close::Internal),
                },
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
            && !std::mem::replace(&mut socket.is_dirty, true)
        {
            self.dirty.push(key);
        }
    }

    fn flush(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.is_dirty = false;
        match socket.flush() {
            Poll::Ready(Ok(())) => {
                if socket.is_finished() {
                    return self.remove(key);
                }
                if socket.is_closing() {
                    socket.shutdown();
                } else if std::mem::take(&mut socket.notify_when_drained)
                    && let Phase::Open(session) = &socket.phase
                {
                    // Unbounded, but the session asked for each and waits for it: one a socket.
                    session.do_send(SessionInput::Drained { socket: key });
                }
            }
            Poll::Ready(Err(_)) => self.remove(key),
            Poll::Pending if !socket.is_closing() && socket.backlog_bytes() > self.limits.max_backlog_bytes => {
                tracing::info!(backlog_bytes = socket.backlog_bytes(), "socket too slow; closing it");
                self.close(key, Close::TooSlow);
            }
            Poll::Pending => {}
        }
    }

    /// Closes a socket and drops its backlog.
    fn close(&mut self, key: SocketKey, close: Close) {
        self.begin_close(key, close, false);
    }

    /// Closes a socket whose client broke the protocol, and discards what it still sends.
    fn close_and_stop_reading(&mut self, key: SocketKey, close: Close) {
        self.begin_close(key, close, true);
    }

    fn begin_close(&mut self, key: SocketKey, close: Close, stop_reading: bool) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if socket.is_closing() && !stop_reading {
            return;
        }
        metrics::counter!(metric_names::SOCKET_CLOSES, "code" => close.code().to_string()).increment(1);
        if matches!(close, Close::GoingAway | Close::TokenExpired) {
            socket.begin_close_in_order(close, close_frame(close));
        } else {
            socket.begin_close(close, close_frame(close));
        }
        if stop_reading {
            socket.stop_reading();
        }
        self.deadlines.add(Instant::now() + LINGER, key, Deadline::Linger);
        self.mark_dirty(key);
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        if self.deadlines.len() > 4 * self.sockets.len() + FEW_DEADLINES {
            // Most are of sockets that have ended long before their tokens.
            self.deadlines.retain(|key| self.sockets.contains_key(key));
        }
        for (due, key, deadline) in self.deadlines.take_due(now) {
            let Some(socket) = self.sockets.get(key) else { continue };
            match deadline {
                Deadline::Expiry if socket.expires_at.is_some_and(|at| at <= now) => {
                    self.close(key, Close::TokenExpired);
                }
                Deadline::Linger if socket.is_closing() => self.remove(key),
                Deadline::Probe if socket.last_heard + PROBE < due - self.stood => {
                    self.close(key, Close::NoHeartbeat);
                    self.guarded(key, Self::flush);
                    // Nobody is there who could answer the close, and the connection is waited for.
                    self.remove(key);
                }
                // The store does not answer, or the session ended before it heard of this socket. The client tries again.
                Deadline::Welcome if matches!(socket.phase, Phase::Joining) => self.close(key, Close::Internal),
                Deadline::Drain => self.close(key, Close::GoingAway),
                Deadline::Expiry => {
                    if let Some(at) = socket.expires_at {
                        self.deadlines.add(at, key, Deadline::Expiry);
                    }
                }
                Deadline::Linger | Deadline::Welcome | Deadline::Probe => {}
            }
        }
        let Some(beating) = self.heartbeats.advance() else { return };
        let (silence, lived) = (self.limits.heartbeat * 2, self.lived());
        let mut alive = Vec::with_capacity(beating.len());
        for key in beating {
            let Some(socket) = self.sockets.get(key) else { continue };
            if lived.saturating_duration_since(socket.last_heard) + TICK >= silence {
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
