//! One WebSocket as plain state: what was read of it, what waits to be written, when it last gave a sign of life.
//!
//! It has no task, no timer and no buffer of its own at rest; its pump polls it (see `pump.rs`). The WebSocket protocol
//! comes from the `ws` module that actix-web-actors exposes, and stays in `socket/`.

mod assembler;
mod backlog;
mod transport;

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use actix::Addr;
use bytes::{Bytes, BytesMut};
use tokio::{io::ReadBuf, time::Instant};

pub(crate) use assembler::{Assembler, Incoming};
use backlog::Backlog;
pub use transport::Transport;
use transport::Wire;

use crate::{model::Identity, ports::Expiry, protocol::Close, socket_loop::SocketSignal, registry::ConnectionPermit, session::Session};

/// A socket as the HTTP side hands it over: upgraded, authenticated, with a place taken.
#[derive(Debug)]
pub struct NewSocket {
    pub transport: Transport,
    /// Bytes that came right behind the upgrade request.
    pub read_ahead: BytesMut,
    /// permessage-deflate was agreed on (RFC 7692), without context takeover either way.
    pub deflate: bool,
    pub purpose: Purpose,
}

impl NewSocket {
    /// When the holder's token runs out.
    pub(crate) fn expiry(&self) -> Option<Expiry> {
        match &self.purpose {
            Purpose::Follow { expiry, .. } => *expiry,
            _ => None,
        }
    }
}

/// What a socket was opened for.
#[derive(Debug)]
pub enum Purpose {
    /// A stream's follower.
    Follow { identity: Arc<Identity>, permit: ConnectionPermit, expiry: Option<Expiry> },
    /// To be told why it is refused: closed as soon as it is open.
    Reject(Close),
    /// To get back what it sends.
    #[cfg(feature = "echo")]
    Echo,
}

/// Where a socket stands.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Waits for its session; not read yet.
    Joining,
    Open(Addr<Session>),
    /// A close frame is on its way out; what still comes is looked at for the client's own alone.
    Closing {
        /// After a violation nothing that comes can be understood.
        reading_stopped: bool,
        /// The close handshake is complete as soon as all is written.
        finished: bool,
    },
    #[cfg(feature = "echo")]
    Echo,
}

/// One WebSocket.
pub(crate) struct Socket {
    wire: Wire,
    pub(crate) signal: Arc<SocketSignal>,
    assembler: Assembler,
    /// The beginning of a frame whose rest has not come.
    unparsed: BytesMut,
    backlog: Backlog,
    pub(crate) phase: Phase,
    pub(crate) identity: Option<Arc<Identity>>,
    /// Given back when the socket is dropped, whatever the way.
    pub(crate) permit: Option<ConnectionPermit>,
    /// Its token's end.
    pub(crate) expires_at: Option<Instant>,
    pub(crate) last_heard: Instant,
    /// Whether its session waits to hear that the backlog is empty.
    pub(crate) tell_when_drained: bool,
    /// Whether it is on the pump's list of sockets to flush.
    pub(crate) dirty: bool,
    /// Why it is closed, once that is decided.
    pub(crate) closed_with: Option<Close>,
}

/// What a read brought.
pub(crate) enum Read {
    /// So many bytes are in the buffer.
    Some(usize),
    /// Nothing more now; the waker is set.
    Nothing,
    /// The peer is gone.
    End,
}

impl Socket {
    /// # Errors
    /// Where this thread's reactor refuses the connection.
    pub(crate) fn new(new_socket: NewSocket, signal: Arc<SocketSignal>, now: Instant) -> io::Result<(Self, Option<Close>)> {
        let mut refused = None;
        let (phase, identity, permit, expires_at) = match new_socket.purpose {
            Purpose::Follow { identity, permit, expiry } => {
                let expires_at = expiry.map(|expiry| now + expiry.remaining);
                (Phase::Joining, Some(identity), Some(permit), expires_at)
            }
            Purpose::Reject(close) => {
                refused = Some(close);
                (Phase::Joining, None, None, None)
            }
            #[cfg(feature = "echo")]
            Purpose::Echo => (Phase::Echo, None, None, None),
        };
        let socket = Self {
            wire: new_socket.transport.into_wire()?,
            signal,
            assembler: Assembler::new(new_socket.deflate),
            unparsed: new_socket.read_ahead,
            backlog: Backlog::default(),
            phase,
            identity,
            permit,
            expires_at,
            last_heard: now,
            tell_when_drained: false,
            dirty: false,
            closed_with: None,
        };
        Ok((socket, refused))
    }

    /// Reads once into `buffer`, which is the pump's.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        let waker = Waker::from(self.signal.clone());
        let mut cx = Context::from_waker(&waker);
        let mut buffer = ReadBuf::new(buffer);
        match self.wire.poll_read(&mut cx, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Read::End,
            Poll::Ready(Ok(())) => Read::Some(buffer.filled().len()),
            // A reset or a broken pipe is an ordinary end of a socket.
            Poll::Ready(Err(_)) => Read::End,
            Poll::Pending => Read::Nothing,
        }
    }

    /// Adds what was read to what was left over.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.unparsed.extend_from_slice(bytes);
    }

    /// The next whole message or control frame.
    pub(crate) fn next_incoming(&mut self, max_bytes: usize) -> Result<Option<Incoming>, Close> {
        let incoming = self.assembler.next(&mut self.unparsed, max_bytes);
        if self.unparsed.is_empty() {
            // A socket at rest owns no buffer.
            self.unparsed = BytesMut::new();
        }
        incoming
    }

    /// Queues a frame. The bound is the pump's to judge, by [`Socket::backlog_bytes`].
    pub(crate) fn queue(&mut self, frame: Bytes) {
        self.backlog.push(frame);
    }

    /// Whether compressed messages were agreed on.
    pub(crate) fn deflates(&self) -> bool {
        self.assembler.deflates()
    }

    pub(crate) fn backlog_bytes(&self) -> usize {
        self.backlog.bytes()
    }

    /// Whether there is something to write, here or in the transport.
    pub(crate) fn needs_flush(&self) -> bool {
        self.backlog.needs_flush()
    }

    /// Bytes read that are no whole message yet, or wait to be looked at.
    pub(crate) fn unparsed_bytes(&self) -> usize {
        self.unparsed.len()
    }

    /// Writes what waits, as far as the peer takes it.
    pub(crate) fn flush(&mut self) -> Poll<io::Result<()>> {
        let waker = Waker::from(self.signal.clone());
        self.backlog.flush(&mut self.wire, &mut Context::from_waker(&waker))
    }

    /// Begins the close: what waits unsent is given up except a frame already half written, and the close frame
    /// follows it. Nothing can be queued by a session after this.
    pub(crate) fn begin_close(&mut self, close: Close, frame: Bytes) {
        self.backlog.keep_only_started();
        self.begin_close_in_order(close, frame);
    }

    /// The same, keeping all that waits: for a close that comes in order behind it.
    pub(crate) fn begin_close_in_order(&mut self, close: Close, frame: Bytes) {
        self.backlog.push(frame);
        self.phase = Phase::Closing { reading_stopped: false, finished: false };
        self.closed_with = Some(close);
    }

    /// What the peer still sends is thrown away.
    pub(crate) fn stop_reading(&mut self) {
        self.unparsed = BytesMut::new();
        if let Phase::Closing { reading_stopped, .. } = &mut self.phase {
            *reading_stopped = true;
        }
    }

    /// The close handshake is complete as soon as all is written.
    pub(crate) fn finish_after_flush(&mut self) {
        if let Phase::Closing { finished, .. } = &mut self.phase {
            *finished = true;
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }

    pub(crate) fn is_reading_stopped(&self) -> bool {
        matches!(self.phase, Phase::Closing { reading_stopped: true, .. } | Phase::Closing { finished: true, .. })
    }

    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Closing { finished: true, .. })
    }

    /// Says to the peer that nothing more will be written.
    pub(crate) fn shutdown(&mut self) {
        let waker = Waker::from(self.signal.clone());
        self.wire.shutdown(&mut Context::from_waker(&waker));
    }
}
