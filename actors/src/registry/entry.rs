//! One user or app in a registry: the connections it holds, and its session while it has one.

use std::{collections::VecDeque, sync::Arc};

use actix::{Addr, dev::SendError};
use futures_util::future::{BoxFuture, Shared};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    connection_permit::{AcquireError, ConnectionPermit},
    metric_names,
    model::{ConnectionCounts, Offset, Scope, StreamKind},
    protocol::PublishedEvent,
    session::{
        Session,
        messages::{EventBatch, Join, SessionInput},
    },
    socket_loop::key::SocketKey,
};

/// Who waits for a permit, and the scope it would have.
pub(super) type Acquiring = (Scope, oneshot::Sender<Result<ConnectionPermit, AcquireError>>);

/// A user or app that holds a connection or asks for one.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) counts: ConnectionCounts,
    pub(super) session: Option<RunningSession>,
    /// Sockets that wait for the session, which waits for its stream's head.
    pub(super) joining: Vec<Join>,
    /// The highest offset routed here before the session began. The head that it begins with may have been read earlier.
    pub(super) highest_routed: Offset,
    /// Completes when the bus delivers what other nodes publish to the stream. A session that began before could miss
    /// something.
    pub(super) followed: Option<Shared<BoxFuture<'static, ()>>>,
    pub(super) acquiring: VecDeque<Acquiring>,
    /// What would be held with the permit that the limiter is being asked for.
    pub(super) requested: Option<ConnectionCounts>,
    /// When the sockets were last probed because all connections were taken.
    pub(super) probed_at: Option<Instant>,
    /// The outcome of a probe is waited for.
    pub(super) is_probing: bool,
}

/// A running session.
pub(super) struct RunningSession {
    pub(super) addr: Addr<Session>,
    pub(super) serial: u64,
    /// A message did not fit its mailbox.
    pub(super) needs_resync: bool,
    /// The highest offset of its own stream that this node or the store told it of. Hints from other nodes do not count:
    /// a wrong one must not hide what the store says.
    highest_sent: Offset,
}

impl RunningSession {
    pub(super) fn new(addr: Addr<Session>, serial: u64) -> Self {
        Self { addr, serial, needs_resync: false, highest_sent: 0 }
    }
}

impl Entry {
    /// Whether nobody held or asked for a connection before.
    pub(super) fn is_unused(&self) -> bool {
        self.followed.is_none() && self.is_vacant()
    }

    /// Whether nobody holds or asks for a connection.
    pub(super) fn is_vacant(&self) -> bool {
        self.counts.total() == 0 && self.acquiring.is_empty() && self.requested.is_none()
    }

    /// Has the sockets dropped that do not answer.
    pub(super) fn probe(&self) {
        if let Some(running) = &self.session {
            // A full mailbox belongs to a session at work. The next one who wants a connection probes again.
            let _ = running.addr.try_send(SessionInput::Probe);
        }
    }

    /// Forgets a socket that is gone.
    pub(super) fn socket_left(&mut self, socket: SocketKey) {
        self.joining.retain(|join| join.socket != socket);
        if let Some(running) = &self.session {
            // Unbounded, but one message a socket, and sockets are bounded.
            running.addr.do_send(SessionInput::Left { socket });
        }
    }

    /// Delivers an event that this node committed, so its offset is the store's.
    pub(super) fn deliver_own(&mut self, event: &Arc<PublishedEvent>, kind: StreamKind) {
        if self.deliver(event, kind)
            && let Some(running) = &mut self.session
        {
            running.highest_sent = running.highest_sent.max(event.offset_in(kind));
        }
    }

    /// Delivers an event from any node. Returns whether a session took it.
    pub(super) fn deliver(&mut self, event: &Arc<PublishedEvent>, kind: StreamKind) -> bool {
        if self.session.is_none() {
            self.highest_routed = self.highest_routed.max(event.offset_in(kind));
        }
        self.send_events(kind, || EventBatch::One(event.clone()))
    }

    pub(super) fn deliver_broadcasts(&mut self, events: &Arc<[Arc<PublishedEvent>]>) {
        self.send_events(StreamKind::Broadcast, || EventBatch::Shared(events.clone()));
    }

    fn send_events(&mut self, kind: StreamKind, events: impl FnOnce() -> EventBatch) -> bool {
        let Some(running) = &mut self.session else { return false };
        let sent = running.addr.try_send(SessionInput::Deliver { kind, events: events() });
        if let Err(SendError::Full(_)) = sent {
            metrics::counter!(metric_names::OVERFLOWS).increment(1);
            running.needs_resync = true;
        }
        sent.is_ok()
    }

    /// Passes on the head of the entry's own stream, as the store says, where the session may not know it.
    pub(super) fn observe_head(&mut self, kind: StreamKind, head: Offset) {
        let Some(running) = &mut self.session else { return };
        if running.highest_sent >= head {
            return;
        }
        match running.addr.try_send(SessionInput::ObserveHead { kind, head }) {
            Ok(()) => running.highest_sent = head,
            Err(_) => running.needs_resync = true,
        }
    }

    /// Whether the session lost messages. Cleared before the heads are read: a message that is lost afterwards sets it again.
    /// Where the heads cannot be read, the caller sets it with [`Entry::set_needs_resync`].
    pub(super) fn take_needs_resync(&mut self) -> bool {
        self.session.as_mut().is_some_and(|running| std::mem::take(&mut running.needs_resync))
    }

    pub(super) fn set_needs_resync(&mut self) {
        if let Some(running) = &mut self.session {
            running.needs_resync = true;
        }
    }

    /// Has a session that lost messages catch up: with its own stream and with the broadcasts. Left for the next time
    /// where its mailbox is still full.
    pub(super) fn send_heads(&mut self, kind: StreamKind, head: Offset, broadcast_head: Offset) {
        let Some(running) = &mut self.session else { return };
        let mut heads = vec![(kind, head)];
        if kind == StreamKind::User {
            heads.push((StreamKind::Broadcast, broadcast_head));
        }
        let fails = |(kind, head)| running.addr.try_send(SessionInput::ObserveHead { kind, head }).is_err();
        running.needs_resync |= heads.into_iter().any(fails);
    }
}
