//! A resume as its session conducts it: the subscription, the replay, `resumed`, and the step over to live (contract §5).

use std::collections::VecDeque;

use super::{
    member::{Positions, TooManyPatterns},
    replay::{Replay, Seam, reaches_back},
    state::{Effect, State, push},
};
use crate::{
    model::{EventPattern, Offset, StreamKind, unmatchable_patterns},
    ports::Page,
    protocol::{FrameId, ServerFrame, pattern_texts},
    socket_loop::SocketKey,
};

/// What a `subscribe` says of where the client was.
pub(super) struct Resume {
    pub after: Option<Offset>,
    pub after_broadcast: Option<Offset>,
    pub epoch: Option<String>,
}

impl State {
    pub(super) fn subscribe(
        &mut self,
        socket: SocketKey,
        patterns: Vec<EventPattern>,
        mut resume: Resume,
        id: Option<FrameId>,
        effects: &mut Vec<Effect>,
    ) {
        let mut close_revoked =
            |code, message: &str| push(socket, &ServerFrame::Error { code, message, id: id.as_ref() }, effects);
        if !self.follows_broadcasts() && resume.after_broadcast.take().is_some() && resume.after.is_none() {
            return close_revoked(
                "validation_failed",
                "after_broadcast is for users' sockets: an app's stream holds its broadcasts too; send its offset as after",
            );
        }
        let resumes = resume.after.is_some() || resume.after_broadcast.is_some();
        let (now, epoch, replay_id) = (self.positions(), self.epoch.clone(), self.next_replay_id);
        let Some(member) = self.member(socket) else { return };
        if resumes && member.replay.is_some() {
            return close_revoked("conflict", "a replay is under way on this socket; wait for its resumed");
        }
        let warning = unmatchable_patterns(&patterns);
        let previous_subscriptions = member.subscriptions.clone();
        if let Err(TooManyPatterns) = member.subscribe(patterns) {
            return close_revoked("validation_failed", "event_types: a socket holds at most 100 patterns");
        }
        let event_types = pattern_texts(member.subscriptions.iter().map(|subscription| &subscription.pattern));
        push(socket, &ServerFrame::Subscribed { event_types, warning, id: id.as_ref() }, effects);
        if !resumes {
            return;
        }
        let served_before = member.positions;
        let after = Positions {
            own: resume.after.unwrap_or(served_before.own),
            broadcast: resume.after_broadcast.unwrap_or(served_before.broadcast),
        };
        let mut unchecked = Vec::new();
        for (kind, asked) in [(self.stream.kind(), resume.after), (StreamKind::Broadcast, resume.after_broadcast)] {
            // Where nothing was missed the store need not be asked.
            if asked.is_some_and(|asked| asked != now.get(kind)) {
                unchecked.push(kind);
            }
        }
        let replay = Replay {
            id,
            replay_id,
            after,
            served_before,
            previous_subscriptions,
            unchecked,
            queue: VecDeque::new(),
            waiting: None,
            replayed: 0,
        };
        self.next_replay_id = replay_id.wrapping_add(1);
        let Some(member) = self.member(socket) else { return };
        member.positions = after;
        member.replay = Some(Box::new(replay));
        member.mark_replayed_after(after);
        if resume.epoch.is_some_and(|theirs| *theirs != *epoch) {
            self.end_replay(socket, false, effects);
        } else {
            self.advance(socket, effects);
        }
    }

    pub(super) fn on_replay_page(
        &mut self,
        socket: SocketKey,
        replay_id: u32,
        kind: StreamKind,
        page: Page,
        effects: &mut Vec<Effect>,
    ) {
        let Some(member) = self.member(socket) else { return };
        let after = member.positions.get(kind);
        let Some(mut replay) = member.replay.take() else { return };
        if replay.replay_id != replay_id {
            member.replay = Some(replay);
            return;
        }
        replay.waiting = None;
        // An event may be archived between two pages as well as before the first.
        if !reaches_back(&page, kind, after) {
            // Once events were sent the way back is closed: what follows is still in order, and the client learns
            // from the gap in the offsets.
            if replay.replayed == 0 {
                member.replay = Some(replay);
                return self.end_replay(socket, false, effects);
            }
        }
        replay.unchecked.retain(|unchecked| *unchecked != kind);
        if page.events.is_empty() {
            let position = member.positions.get_mut(kind);
            *position = page.head.max(*position);
        }
        for event in page.events {
            replay.take(member, kind, event);
        }
        member.replay = Some(replay);
        self.advance(socket, effects);
    }

    /// Takes a replay as far as it goes now: pushes what is read, asks for what is not, ends where the session is.
    pub(super) fn advance(&mut self, socket: SocketKey, effects: &mut Vec<Effect>) {
        let (goal, own_kind) = (self.positions(), self.stream.kind());
        let seam = Seam { goal, own_kind, recent: &self.recent, burst_bytes: self.replay_burst_bytes };
        let member = self.members.iter_mut().find(|(key, _)| *key == socket).map(|(_, member)| member);
        let is_done = member.is_some_and(|member| {
            let Some(mut replay) = member.replay.take() else { return false };
            let is_done = replay.advance(socket, member, &seam, effects);
            member.replay = Some(replay);
            is_done
        });
        if is_done {
            self.end_replay(socket, true, effects);
        }
    }

    pub(super) fn end_replay(&mut self, socket: SocketKey, recovered: bool, effects: &mut Vec<Effect>) {
        let now = self.positions();
        let Some(member) = self.member(socket) else { return };
        let Some(replay) = member.replay.take() else { return };
        if !recovered {
            // The client reloads its state; from here on it is served live.
            member.positions = now;
            member.reset_since(now);
        }
        let frame = ServerFrame::Resumed {
            after: replay.after.own,
            offset: member.positions.own,
            after_broadcast: replay.after.broadcast,
            broadcast_offset: member.positions.broadcast,
            recovered,
            replayed: replay.replayed,
            id: replay.id.as_ref(),
        };
        push(socket, &frame, effects);
        self.forget_recent();
    }
}
