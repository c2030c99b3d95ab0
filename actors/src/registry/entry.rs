//! One user or app in a registry: the places taken, and the session while somebody is online.

use std::{collections::VecDeque, sync::Arc};

use actix::{Addr, dev::SendError};
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;

use super::{AcquireError, Registry, Release};
use crate::{
    metric_names,
    model::{ConnectionCounts, Offset, PublishedEvent, Scope, StreamKey, StreamKind},
    socket_loop::SocketKey,
    session::{Events, Session, ToSession},
};

/// A connection place of a user or an app on this node; given back when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    registry: Addr<Registry>,
    stream: StreamKey,
    scope: Scope,
    socket: Option<SocketKey>,
}

impl ConnectionPermit {
    pub(super) fn new(registry: Addr<Registry>, stream: StreamKey, scope: Scope) -> Self {
        Self { registry, stream, scope, socket: None }
    }

    pub(crate) fn attached_to(&mut self, socket: SocketKey) {
        self.socket = Some(socket);
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        // One message a place, and places are bounded.
        self.registry.do_send(Release { stream: self.stream.clone(), scope: self.scope.clone(), socket: self.socket });
    }
}

/// Somebody with at least one place.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) counts: ConnectionCounts,
    pub(super) session: Option<Online>,
    /// Until what other nodes publish to the stream is heard. A session that began before could miss something.
    pub(super) followed: Option<Shared<BoxFuture<'static, ()>>>,
    /// Who wants a place, by what it would see.
    pub(super) acquiring: VecDeque<(Scope, oneshot::Sender<Result<ConnectionPermit, AcquireError>>)>,
    /// What would be held with the claim that is under way.
    pub(super) requested: Option<ConnectionCounts>,
}

pub(super) struct Online {
    pub(super) addr: Addr<Session>,
    pub(super) serial: u64,
    /// A message did not fit its mailbox.
    pub(super) needs_resync: bool,
    /// The highest offset of its stream that it was told of by this node or the store. Not by others: a hint that is wrong
    /// must not keep it from hearing what the store says.
    last_sent: Offset,
}

impl Online {
    pub(super) fn new(addr: Addr<Session>, serial: u64) -> Self {
        Self { addr, serial, needs_resync: false, last_sent: 0 }
    }
}

impl Entry {
    /// Nobody was here before.
    pub(super) fn is_unused(&self) -> bool {
        self.followed.is_none() && self.is_vacant()
    }

    /// Nobody is here, and nobody comes.
    pub(super) fn is_vacant(&self) -> bool {
        self.counts.total() == 0 && self.acquiring.is_empty() && self.requested.is_none()
    }

    /// An event that this node committed, so that its offset is the store's.
    pub(super) fn deliver_own(&mut self, event: &Arc<PublishedEvent>, kind: StreamKind) {
        if let Some(online) = &mut self.session {
            online.last_sent = online.last_sent.max(event.offset_in(kind));
        }
        self.deliver(event, kind);
    }

    pub(super) fn deliver(&mut self, event: &Arc<PublishedEvent>, kind: StreamKind) {
        self.tell(kind, || Events::One(event.clone()));
    }

    pub(super) fn deliver_broadcasts(&mut self, events: &Arc<[Arc<PublishedEvent>]>) {
        self.tell(StreamKind::Broadcast, || Events::Many(events.clone()));
    }

    fn tell(&mut self, kind: StreamKind, events: impl FnOnce() -> Events) {
        if let Some(online) = &mut self.session
            && let Err(SendError::Full(_)) = online.addr.try_send(ToSession::Deliver { kind, events: events() })
        {
            metrics::counter!(metric_names::OVERFLOWS).increment(1);
            online.needs_resync = true;
        }
    }

    /// Its stream reaches to here, as the store says.
    pub(super) fn observe_head(&mut self, head: Offset) {
        if let Some(online) = &mut self.session
            && online.last_sent < head
            && online.addr.try_send(ToSession::ObserveHead { head }).is_ok()
        {
            online.last_sent = head;
        }
    }

    /// Has the session compare itself with the store, where a message did not fit.
    pub(super) fn resync_if_needed(&mut self) {
        if let Some(online) = &mut self.session
            && online.needs_resync
        {
            online.needs_resync = online.addr.try_send(ToSession::CatchUp).is_err();
        }
    }
}
