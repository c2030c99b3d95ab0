//! One WebSocket as plain state: bytes read and not parsed yet, frames waiting to be written, when it was last heard.
//!
//! It has no task, no timer and, while idle, no buffer of its own; its socket loop polls it (`socket_loop.rs`). The
//! WebSocket protocol comes from the `ws` module that actix-web-actors exposes. Only the files in `socket/` use it.

mod assembler;
mod backlog;
pub(crate) mod new_socket;
pub(crate) mod transport;

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use actix::Recipient;
use bytes::{Bytes, BytesMut};
use tokio::{io::ReadBuf, time::Instant};

pub(crate) use assembler::{Assembler, Incoming};
use backlog::Backlog;
use new_socket::{NewSocket, Purpose};
use transport::Wire;

use crate::{
    connection_permit::ConnectionPermit, model::Identity, protocol::Close, session::messages::SessionInput,
    socket_loop::handle::SocketSignal,
};

/// The stages of a socket's life.
pub(crate) enum Phase {
    /// Waits for its session. Its messages are not parsed yet.
    Joining,
    Open(Recipient<SessionInput>),
    /// The close frame is queued or sent. Of what still comes only the client's close frame matters.
    Closing {
        /// The client broke the protocol, so nothing it still sends can be parsed.
        is_reading_stopped: bool,
        /// The close handshake is complete as soon as all is written.
        is_finished: bool,
    },
    #[cfg(feature = "echo")]
    Echo,
}

/// One WebSocket.
pub(crate) struct Socket {
    wire: Wire,
    pub(crate) signal: Arc<SocketSignal>,
    assembler: Assembler,
    /// Bytes that were read and are not a whole frame yet.
    unparsed: BytesMut,
    backlog: Backlog,
    pub(crate) phase: Phase,
    /// Its session has sent it something, and so its `welcome`.
    pub(crate) is_welcomed: bool,
    pub(crate) identity: Option<Arc<Identity>>,
    /// Given back when the socket is dropped.
    pub(crate) permit: Option<ConnectionPermit>,
    /// When its token expires.
    pub(crate) expires_at: Option<Instant>,
    /// When bytes last came from the client.
    pub(crate) last_heard: Instant,
    /// Whether its session waits for `Drained`.
    pub(crate) notify_when_drained: bool,
    /// Whether it is on the loop's list of sockets to flush.
    pub(crate) is_dirty: bool,
    /// The close code in use, once the socket is closing.
    pub(crate) closed_with: Option<Close>,
}

/// The outcome of a read.
pub(crate) enum Read {
    /// This many bytes are in the buffer.
    Some(usize),
    /// Nothing to read now. The socket signals when there is.
    Pending,
    /// The connection ended.
    End,
}

impl Socket {
    /// Moves a new socket to this thread. With it comes the code to close it with, where it is to be rejected.
    ///
    /// # Errors
    /// This thread's reactor refuses the connection.
    pub(crate) fn new(
        new_socket: NewSocket,
        signal: Arc<SocketSignal>,
        now: Instant,
    ) -> io::Result<(Self, Option<Close>)> {
        let mut rejected = None;
        let (phase, identity, permit, expires_at) = match new_socket.purpose {
            Purpose::Follow { identity, permit, expiry } => {
                let expires_at = expiry.map(|expiry| now + expiry.remaining);
                (Phase::Joining, Some(identity), Some(permit), expires_at)
            }
            Purpose::Reject(close) => {
                rejected = Some(close);
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
            is_welcomed: false,
            identity,
            permit,
            expires_at,
            last_heard: now,
            notify_when_drained: false,
            is_dirty: false,
            closed_with: None,
        };
        Ok((socket, rejected))
    }

    /// Reads once into `buffer`, which all sockets of a loop share.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        let waker = Waker::from(self.signal.clone());
        let mut cx = Context::from_waker(&waker);
        let mut buffer = ReadBuf::new(buffer);
        match self.wire.poll_read(&mut cx, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Read::End,
            Poll::Ready(Ok(())) => Read::Some(buffer.filled().len()),
            // A reset or a broken pipe is an ordinary end of a socket.
            Poll::Ready(Err(_)) => Read::End,
            Poll::Pending => Read::Pending,
        }
    }

    /// Appends bytes that were read to those not parsed yet.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.unparsed.extend_from_slice(bytes);
    }

    /// Parses the next whole message or control frame; `None` where more bytes are needed.
    ///
    /// # Errors
    /// The code to close with, where the client broke the protocol.
    pub(crate) fn next_incoming(&mut self, max_bytes: usize) -> Result<Option<Incoming>, Close> {
        let incoming = self.assembler.next(&mut self.unparsed, max_bytes);
        if self.unparsed.is_empty() {
            // An idle socket owns no buffer.
            self.unparsed = BytesMut::new();
        }
        incoming
    }

    /// Queues a frame. The caller holds the socket to its bound, by [`Socket::backlog_bytes`].
    pub(crate) fn queue(&mut self, frame: Bytes) {
        self.backlog.push(frame);
    }

    /// Whether permessage-deflate was negotiated.
    pub(crate) fn deflates(&self) -> bool {
        self.assembler.deflates()
    }

    /// Bytes that wait to be written, without those in the kernel.
    pub(crate) fn backlog_bytes(&self) -> usize {
        self.backlog.bytes()
    }

    /// Whether something waits to be written, in the backlog or in the TLS session.
    pub(crate) fn needs_flush(&self) -> bool {
        self.backlog.needs_flush()
    }

    /// Bytes that were read and not parsed yet.
    pub(crate) fn unparsed_bytes(&self) -> usize {
        self.unparsed.len()
    }

    /// Writes the backlog as far as the kernel takes it.
    pub(crate) fn flush(&mut self) -> Poll<io::Result<()>> {
        let waker = Waker::from(self.signal.clone());
        self.backlog.flush(&mut self.wire, &mut Context::from_waker(&waker))
    }

    /// Begins the close and drops the backlog, except a frame already half written. The close frame follows that one.
    pub(crate) fn begin_close(&mut self, close: Close, frame: Bytes) {
        self.backlog.keep_only_started();
        self.begin_close_in_order(close, frame);
    }

    /// Begins the close behind everything that waits in the backlog.
    pub(crate) fn begin_close_in_order(&mut self, close: Close, frame: Bytes) {
        self.backlog.push(frame);
        self.phase = Phase::Closing { is_reading_stopped: false, is_finished: false };
        self.closed_with = Some(close);
    }

    /// Discards what the client still sends.
    pub(crate) fn stop_reading(&mut self) {
        self.unparsed = BytesMut::new();
        if let Phase::Closing { is_reading_stopped, .. } = &mut self.phase {
            *is_reading_stopped = true;
        }
    }

    /// The close handshake is complete as soon as all is written.
    pub(crate) fn finish_after_flush(&mut self) {
        if let Phase::Closing { is_finished, .. } = &mut self.phase {
            *is_finished = true;
        }
    }

    /// Whether the close handshake has begun.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }

    /// Whether what the client still sends is discarded.
    pub(crate) fn is_reading_stopped(&self) -> bool {
        matches!(self.phase, Phase::Closing { is_reading_stopped: true, .. } | Phase::Closing { is_finished: true, .. })
    }

    /// Whether the close handshake is complete once the backlog is written.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Closing { is_finished: true, .. })
    }

    /// Half-closes the connection: nothing more will be written.
    pub(crate) fn shutdown(&mut self) {
        let waker = Waker::from(self.signal.clone());
        self.wire.shutdown(&mut Context::from_waker(&waker));
    }
}
