//! What a session does, as values: `state.rs` decides, `session.rs` performs.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    model::{Identity, Offset, StreamKind},
    protocol::{FrameId, PublishedEvent, ServerFrame},
    socket_loop::key::SocketKey,
};

/// Something for the actor to do.
#[derive(Debug)]
pub(super) enum Effect {
    /// Tells the socket loop that this socket may be read.
    Open { socket: SocketKey },
    /// Queues a frame for a socket.
    Push { socket: SocketKey, frame: Bytes },
    /// Reports that a notification reached its user.
    Receipt { event: Arc<PublishedEvent> },
    /// Asks for `Drained` once everything pushed so far is with the kernel.
    NotifyWhenDrained { socket: SocketKey },
    /// Has the socket dropped unless it answers.
    Probe { socket: SocketKey },
    /// Asks for `ReorderTimeout` after the reorder window.
    WaitForReorder { kind: StreamKind },
    /// Reads the page that fills a gap.
    LoadPage { kind: StreamKind, after: Offset },
    /// Reads the next page of a replay. Retried until the store answers.
    LoadReplay { socket: SocketKey, replay_id: u32, kind: StreamKind, after: Offset },
    /// Verifies a token that a client sent.
    Refresh { socket: SocketKey, identity: Arc<Identity>, token: String, id: Option<FrameId> },
}

/// Queues a frame that is no event.
pub(super) fn push(socket: SocketKey, frame: &ServerFrame<'_>, effects: &mut Vec<Effect>) {
    effects.push(Effect::Push { socket, frame: frame.encode() });
}

/// Reports a pushed event that announces a notification, so that `delivered_at` is set.
pub(super) fn record_receipt(kind: StreamKind, event: &Arc<PublishedEvent>, effects: &mut Vec<Effect>) {
    if kind == StreamKind::User && event.event().announces_notification() {
        effects.push(Effect::Receipt { event: event.clone() });
    }
}
