//! A socket's catching up with what it missed: `subscribed`, the replay, `resumed`, then live, with no seam to see
//! (contract §5).

use std::{collections::VecDeque, sync::Arc};

use super::{
    member::{Member, Positions, Subscription},
    state::{Effect, record_receipt},
};
use crate::{
    model::{Offset, PublishedEvent, StreamKind},
    ports::Page,
    protocol::FrameId,
    socket_loop::SocketKey,
};

/// A replay under way.
#[derive(Debug)]
pub(super) struct Replay {
    pub id: Option<FrameId>,
    /// Tells this replay's pages from those of one that was given up.
    pub replay_id: u32,
    /// Where the client said it was.
    pub after: Positions,
    /// Where the socket had been served to when the replay was asked for.
    pub served_before: Positions,
    /// What it held then.
    pub previous_subscriptions: Vec<Subscription>,
    /// Streams whose history must be seen to reach back before anything is sent.
    pub unchecked: Vec<StreamKind>,
    /// Read, and not pushed yet.
    pub queue: VecDeque<(StreamKind, Arc<PublishedEvent>)>,
    pub waiting: Option<Waiting>,
    pub replayed: u64,
}

/// What a replay cannot go on without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    Page(StreamKind),
    Drained,
}

/// What a replay is taken towards, and by what steps.
pub(super) struct Seam<'a> {
    /// How far the session has come.
    pub goal: Positions,
    pub own_kind: StreamKind,
    /// The last events delivered live, which the last step is made of.
    pub recent: &'a VecDeque<(StreamKind, Arc<PublishedEvent>)>,
    /// Bytes that are pushed before the socket has to have taken them.
    pub burst_bytes: usize,
}

impl Replay {
    /// Goes as far as it can now. Whether it is complete.
    pub(super) fn advance(
        &mut self,
        socket: SocketKey,
        member: &mut Member,
        seam: &Seam<'_>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if self.waiting.is_some() {
            return false;
        }
        // Nothing is sent before every stream is known to reach back: recovery is never partial.
        if let Some(&kind) = self.unchecked.first() {
            return self.ask(socket, member, kind, effects);
        }
        loop {
            if !self.push_queued(socket, member, seam.burst_bytes, effects) {
                return false;
            }
            let is_behind = |kind: &StreamKind| member.positions.get(*kind) < seam.goal.get(*kind);
            let Some(kind) = [seam.own_kind, StreamKind::Broadcast].into_iter().find(is_behind) else { return true };
            let position = member.positions.get(kind);
            let recent = seam.recent.iter().filter(|(recent_kind, _)| *recent_kind == kind).map(|(_, event)| event);
            let mut recent = recent.skip_while(|event| event.offset_in(kind) <= position).peekable();
            if recent.peek().is_none_or(|first| first.offset_in(kind) != position + 1) {
                return self.ask(socket, member, kind, effects);
            }
            for event in recent {
                self.take(member, kind, event.clone());
            }
        }
    }

    /// Moves a member past an event, which is queued where the member wants it and was not sent it before.
    pub(super) fn take(&mut self, member: &mut Member, kind: StreamKind, event: Arc<PublishedEvent>) {
        let offset = event.offset_in(kind);
        let position = member.positions.get_mut(kind);
        if offset <= *position {
            return;
        }
        *position = offset;
        if member.wants(&event) && !self.sent_before(kind, &event) {
            self.queue.push_back((kind, event));
        }
    }

    /// Pushes what is read. False where the socket has to take it first.
    fn push_queued(
        &mut self,
        socket: SocketKey,
        member: &Member,
        burst_bytes: usize,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let mut pushed = 0;
        while let Some((kind, event)) = self.queue.pop_front() {
            let frame = member.frame_of(&event, kind);
            pushed += frame.len();
            self.replayed += 1;
            effects.push(Effect::Push { socket, frame });
            record_receipt(kind, &event, effects);
            if pushed > burst_bytes {
                self.waiting = Some(Waiting::Drained);
                effects.push(Effect::TellWhenDrained { socket });
                return false;
            }
        }
        true
    }

    /// Asks for the next page; the replay is not complete.
    fn ask(&mut self, socket: SocketKey, member: &Member, kind: StreamKind, effects: &mut Vec<Effect>) -> bool {
        self.waiting = Some(Waiting::Page(kind));
        effects.push(Effect::LoadReplay { socket, replay_id: self.replay_id, kind, after: member.positions.get(kind) });
        false
    }

    /// Whether this event was sent to the socket before the replay began, under a pattern it held then.
    fn sent_before(&self, kind: StreamKind, event: &PublishedEvent) -> bool {
        let offset = event.offset_in(kind);
        offset <= self.served_before.get(kind)
            && self
                .previous_subscriptions
                .iter()
                .any(|subscription| subscription.since.get(kind) < offset && subscription.pattern.matches(event.full_type()))
    }
}

/// Whether a stream's history still holds everything after `after`, seen from a page of it. Rows leave it in the order of
/// their ids, which is not quite that of their offsets: there may be holes behind its first one.
pub(super) fn reaches_back(page: &Page, kind: StreamKind, after: Offset) -> bool {
    match page.events.last() {
        Some(last) => last.offset_in(kind) == after + page.events.len() as Offset,
        None => page.head == after,
    }
}
