//! What a session is sent: by its registry, by the socket loop, and by its own queries when they complete.

use std::sync::Arc;

use actix::Message;
use bytes::Bytes;

use crate::{
    model::{Identity, Offset, StreamKey, StreamKind, Timestamp},
    ports::{Expiry, Page, RefreshError, Unavailable},
    protocol::{ClientFrame, FrameError, FrameId, PublishedEvent},
    socket_loop::key::SocketKey,
};

/// A socket that wants to be served.
#[derive(Debug)]
pub(crate) struct Join {
    pub socket: SocketKey,
    pub identity: Arc<Identity>,
    /// When its token expires, as `welcome` shows it.
    pub expires_at: Option<Timestamp>,
    /// Whether permessage-deflate was negotiated.
    pub deflate: bool,
    /// A `subscribe` that stood in the address of the upgrade.
    pub subscribe: Option<ClientFrame>,
}

/// Events of one stream, in the order of their offsets.
pub(crate) enum EventBatch {
    One(Arc<PublishedEvent>),
    /// Shared with the other sessions that are sent the same broadcasts.
    Shared(Arc<[Arc<PublishedEvent>]>),
}

impl EventBatch {
    pub(crate) fn as_slice(&self) -> &[Arc<PublishedEvent>] {
        match self {
            Self::One(event) => std::slice::from_ref(event),
            Self::Shared(events) => events,
        }
    }
}

/// What happens to a session.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) enum SessionInput {
    /// A socket is to be welcomed.
    Join(Join),
    /// A socket is gone.
    Left { socket: SocketKey },
    /// A client sent a frame, or something that is none. Both are answered here, in their order.
    Frame { socket: SocketKey, frame: Result<ClientFrame, FrameError> },
    /// Everything pushed to this socket is with the kernel, as the session asked to be told.
    Drained { socket: SocketKey },
    /// Live events. A hint: any may be missing, repeated or out of order.
    Deliver { kind: StreamKind, events: EventBatch },
    /// The store says that the stream reaches to `head`.
    ObserveHead { kind: StreamKind, head: Offset },
    /// A frame for all sockets that is no event.
    SendFrame { frame: Bytes },
    /// All connections are taken and one more is wanted: which sockets are still there?
    Probe,
    /// The page that fills a gap, or its failure.
    Page { kind: StreamKind, page: Result<Page, Unavailable> },
    /// The wait for events that overtook each other is over.
    ReorderTimeout { kind: StreamKind },
    /// A page of a socket's replay.
    ReplayPage { socket: SocketKey, replay_id: u32, kind: StreamKind, page: Page },
    /// A token that a client sent was verified, or refused.
    Refreshed { socket: SocketKey, id: Option<FrameId>, outcome: Result<Expiry, RefreshError> },
    /// Panics, to prove that nobody else is affected.
    #[cfg(any(test, feature = "testing"))]
    Panic,
}

/// A session ended, normally or by a panic. `serial` tells it from a later session of the same stream.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct SessionEnded {
    pub stream: StreamKey,
    pub serial: u64,
}
