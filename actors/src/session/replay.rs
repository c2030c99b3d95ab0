//! The replay of what one socket missed: from `after` up to the live stream, nothing missing, nothing twice, in order
//! (contract §5). Pure; `member.rs` conducts it.
//!
//! A client that saw event 3 comes back. Its session has delivered 7, and 8 and 9 are committed while pages are read:
//!
//! ```text
//!     client          subscribe, after: 3
//!     hub             subscribed
//!
//!     the stream      1   2   3 | 4   5   6   7   8 | 9 | 10  11
//!                           after             ^
//!                                         session
//!     from the store            |-- one or more ----|
//!                                    pages
//!     from `recent`                                 |-9-|
//!     hub                                               | resumed
//!     live                                              | 10  11 ...
//! ```
//!
//! 1. *Check.* The first page of each stream asked for must be dense from `after` on. Otherwise history no longer reaches
//!    back, and the client is told `recovered: false` before anything was sent. A stream of which nothing was missed is
//!    not read. A hole that retention leaves later, while pages are read, shows in the offsets alone.
//! 2. *Pages.* What was read is pushed in bursts, each when the socket has taken the one before; then the next is read.
//! 3. *Recent.* While any socket replays, the session keeps what it delivers in `recent`. As soon as the next missing
//!    event is in there, the rest comes from memory. So a replay ends unless a stream
//!    grows by more than a page while a page is read.
//! 4. *Resumed.* The socket stands where the session stands: `resumed` is sent, and live delivery begins.
//!
//! A socket may have been served before it asked for a replay. An event is left out of the replay when it was sent then:
//! its offset is at or below `served`, and a pattern of `previous` that matches it was in force `since` before it.

use std::{collections::VecDeque, sync::Arc};

use super::{
    effect::{Effect, record_receipt},
    filter::{Filter, Positions, Subscription},
};
use crate::{
    model::{Offset, StreamKind},
    ports::Page,
    protocol::{FrameId, PublishedEvent},
    socket_loop::key::SocketKey,
};

/// A replay in progress.
#[derive(Debug)]
pub(super) struct Replay {
    /// The client's id of the `subscribe`, echoed in `resumed`.
    pub request: Option<FrameId>,
    /// Tells this replay's pages from those of an earlier one.
    pub id: u32,
    /// Where the client said it was.
    pub after: Positions,
    /// How far the socket had been served when the replay was asked for.
    pub served: Positions,
    /// The subscriptions it held then.
    pub previous: Vec<Subscription>,
    /// Streams whose history has yet to be seen to reach back to `after`.
    pub unchecked: Vec<StreamKind>,
    /// Read, and not pushed yet.
    pub queue: VecDeque<(StreamKind, Arc<PublishedEvent>)>,
    pub waiting: Option<Waiting>,
    /// Bytes pushed since the socket last took everything.
    pub pushed_bytes: usize,
    /// Events pushed so far.
    pub replayed: u64,
}

/// What a replay waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    Page(StreamKind),
    Drained,
}

/// What a replay needs to know of its session.
pub(super) struct SessionView<'a> {
    /// How far the session has delivered. A replay ends where its socket stands there too.
    pub positions: Positions,
    /// The kind of the session's own stream: user or app.
    pub own_kind: StreamKind,
    /// The events that the session delivered last, while any socket replays.
    pub recent: &'a VecDeque<(StreamKind, Arc<PublishedEvent>)>,
    /// Bytes pushed before the socket must have taken them.
    pub burst_bytes: usize,
    /// The store's epoch.
    pub epoch: &'a str,
}

impl Replay {
    /// Goes on as far as possible now. Returns whether the replay is complete.
    pub(super) fn advance(
        &mut self,
        socket: SocketKey,
        filter: &Filter,
        positions: &mut Positions,
        session: &SessionView<'_>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if self.waiting.is_some() {
            return false;
        }
        // Nothing is sent before every stream is known to reach back.
        if let Some(&kind) = self.unchecked.first() {
            return self.load(socket, positions, kind, effects);
        }
        loop {
            if !self.push_queued(socket, filter, session.burst_bytes, effects) {
                return false;
            }
            let is_behind = |kind: &StreamKind| positions.get(*kind) < session.positions.get(*kind);
            let Some(kind) = [session.own_kind, StreamKind::Broadcast].into_iter().find(is_behind) else { return true };
            let position = positions.get(kind);
            let recent = session.recent.iter().filter(|(recent_kind, _)| *recent_kind == kind).map(|(_, event)| event);
            let mut recent = recent.skip_while(|event| event.offset_in(kind) <= position).peekable();
            if recent.peek().is_none_or(|first| first.offset_in(kind) != position + 1) {
                return self.load(socket, positions, kind, effects);
            }
            for event in recent {
                self.take(filter, positions, kind, event.clone());
            }
        }
    }

    /// Moves the socket past an event, and queues it where the socket wants it and was not sent it before.
    pub(super) fn take(
        &mut self,
        filter: &Filter,
        positions: &mut Positions,
        kind: StreamKind,
        event: Arc<PublishedEvent>,
    ) {
        let offset = event.offset_in(kind);
        let position = positions.get_mut(kind);
        if offset <= *position {
            return;
        }
        *position = offset;
        if filter.accepts(&event) && !self.was_sent_before(kind, &event) {
            self.queue.push_back((kind, event));
        }
    }

    /// Pushes what was read. Returns false where the socket has to take it first: bytes count over all pages, or a stream
    /// of small events would fill the backlog of a slow socket.
    fn push_queued(
        &mut self,
        socket: SocketKey,
        filter: &Filter,
        burst_bytes: usize,
        effects: &mut Vec<Effect>,
    ) -> bool {
        while let Some((kind, event)) = self.queue.pop_front() {
            let frame = filter.frame_for(&event, kind);
            self.pushed_bytes += frame.len();
            self.replayed += 1;
            effects.push(Effect::Push { socket, frame });
            record_receipt(kind, &event, effects);
            if self.pushed_bytes > burst_bytes {
                self.waiting = Some(Waiting::Drained);
                effects.push(Effect::NotifyWhenDrained { socket });
                return false;
            }
        }
        true
    }

    /// Asks for the next page. Returns false: the replay is not complete.
    fn load(&mut self, socket: SocketKey, positions: &Positions, kind: StreamKind, effects: &mut Vec<Effect>) -> bool {
        self.waiting = Some(Waiting::Page(kind));
        effects.push(Effect::LoadReplay { socket, replay_id: self.id, kind, after: positions.get(kind) });
        false
    }

    fn was_sent_before(&self, kind: StreamKind, event: &PublishedEvent) -> bool {
        let offset = event.offset_in(kind);
        let was_in_force = |subscription: &Subscription| {
            subscription.since.get(kind) < offset && subscription.pattern.matches(event.full_type())
        };
        offset <= self.served.get(kind) && self.previous.iter().any(was_in_force)
    }
}

/// Whether a stream's history still holds everything after `after`, judged by a page read from there. Retention deletes
/// rows in the order of their ids, which is not quite the order of offsets: so there may be holes behind the first row.
pub(super) fn reaches_back(page: &Page, kind: StreamKind, after: Offset) -> bool {
    match page.events.last() {
        Some(last) => last.offset_in(kind) == after + page.events.len() as Offset,
        None => page.head == after,
    }
}
