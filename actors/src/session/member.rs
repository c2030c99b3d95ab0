//! One socket as its session serves it: live, or catching up by a replay (contract §5).

use std::{collections::VecDeque, sync::Arc};

use super::{
    effect::{Effect, push},
    filter::{Filter, Positions, TooManyPatterns},
    replay::{Replay, SessionView, Waiting, reaches_back},
};
use crate::{
    model::{EventPattern, Identity, Offset, StreamKind, unmatchable_patterns},
    ports::Page,
    protocol::{FrameId, PublishedEvent, ServerFrame},
    socket_loop::key::SocketKey,
};

/// A `subscribe` frame, parsed.
pub(super) struct Subscribe {
    pub patterns: Vec<EventPattern>,
    /// Asks for a replay of the holder's own stream.
    pub after: Option<Offset>,
    /// Asks for a replay of the broadcast stream.
    pub after_broadcast: Option<Offset>,
    /// The epoch that those offsets belong to.
    pub epoch: Option<String>,
    pub id: Option<FrameId>,
}

/// A socket of the session.
#[derive(Debug)]
pub(super) struct Member {
    pub socket: SocketKey,
    pub filter: Filter,
    /// How far it has been served.
    pub positions: Positions,
    /// While a replay runs, live events wait.
    pub replay: Option<Box<Replay>>,
    /// A token that it sent is being verified.
    pub is_refreshing: bool,
}

impl Member {
    pub(super) fn new(socket: SocketKey, identity: Arc<Identity>, positions: Positions, compress_from: usize) -> Self {
        let filter = Filter { identity, subscriptions: Vec::new(), compress_from };
        Self { socket, filter, positions, replay: None, is_refreshing: false }
    }

    /// Moves past a live event. Returns whether it is to be sent now.
    pub(super) fn takes_live(&mut self, kind: StreamKind, event: &PublishedEvent) -> bool {
        if self.replay.is_some() {
            return false;
        }
        let position = self.positions.get_mut(kind);
        let offset = event.offset_in(kind);
        if offset <= *position {
            return false;
        }
        *position = offset;
        self.filter.accepts(event)
    }

    /// Answers a `subscribe`, and begins the replay that it may ask for.
    pub(super) fn subscribe(
        &mut self,
        subscribe: Subscribe,
        session: &SessionView<'_>,
        replay_id: u32,
        effects: &mut Vec<Effect>,
    ) {
        let Subscribe { patterns, after, mut after_broadcast, epoch, id } = subscribe;
        let mut reject =
            |code, message: &str| push(self.socket, &ServerFrame::Error { code, message, id: id.as_ref() }, effects);
        if session.own_kind == StreamKind::App && after_broadcast.take().is_some() && after.is_none() {
            return reject(
                "validation_failed",
                "after_broadcast is for users' sockets: an app's stream holds its broadcasts too; send its offset as after",
            );
        }
        let resumes = after.is_some() || after_broadcast.is_some();
        if resumes && self.replay.is_some() {
            return reject("conflict", "a replay is in progress on this socket; wait for its resumed");
        }
        let warning = unmatchable_patterns(&patterns);
        let previous = self.filter.subscriptions.clone();
        if let Err(TooManyPatterns) = self.filter.subscribe(patterns, self.positions) {
            return reject("validation_failed", "event_types: a socket holds at most 100 patterns");
        }
        let event_types = self.filter.event_types();
        push(self.socket, &ServerFrame::Subscribed { event_types, warning, id: id.as_ref() }, effects);
        if !resumes {
            return;
        }
        let served = self.positions;
        let start =
            Positions { own: after.unwrap_or(served.own), broadcast: after_broadcast.unwrap_or(served.broadcast) };
        // A stream of which nothing was missed need not be read.
        let unchecked = [(session.own_kind, after), (StreamKind::Broadcast, after_broadcast)]
            .into_iter()
            .filter(|(kind, asked)| asked.is_some_and(|asked| asked != session.positions.get(*kind)))
            .map(|(kind, _)| kind)
            .collect();
        self.positions = start;
        self.filter.extend_back_to(start);
        self.replay = Some(Box::new(Replay {
            request: id,
            id: replay_id,
            after: start,
            served,
            previous,
            unchecked,
            queue: VecDeque::new(),
            waiting: None,
            pushed_bytes: 0,
            replayed: 0,
        }));
        if epoch.is_some_and(|theirs| theirs != session.epoch) {
            self.end_replay(session, false, effects);
        } else {
            self.advance(session, effects);
        }
    }

    /// Takes a page of the replay.
    pub(super) fn on_replay_page(
        &mut self,
        replay_id: u32,
        kind: StreamKind,
        page: Page,
        session: &SessionView<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(replay) = self.replay.as_mut().filter(|replay| replay.id == replay_id) else { return };
        replay.waiting = None;
        // An event may be archived between two pages as well as before the first. Once events were sent there is no way
        // back to `recovered: false`: what follows is still in order, and the client sees the gap in the offsets.
        if !reaches_back(&page, kind, self.positions.get(kind)) && replay.replayed == 0 {
            return self.end_replay(session, false, effects);
        }
        replay.unchecked.retain(|unchecked| *unchecked != kind);
        if page.events.is_empty() {
            let position = self.positions.get_mut(kind);
            *position = page.head.max(*position);
        }
        for event in page.events {
            replay.take(&self.filter, &mut self.positions, kind, event);
        }
        self.advance(session, effects);
    }

    /// The socket took everything that was pushed.
    pub(super) fn on_drained(&mut self, session: &SessionView<'_>, effects: &mut Vec<Effect>) {
        if let Some(replay) = &mut self.replay
            && replay.waiting == Some(Waiting::Drained)
        {
            replay.waiting = None;
            replay.pushed_bytes = 0;
            self.advance(session, effects);
        }
    }

    /// Takes the replay as far as it goes now, and ends it where the session is.
    pub(super) fn advance(&mut self, session: &SessionView<'_>, effects: &mut Vec<Effect>) {
        let Some(replay) = &mut self.replay else { return };
        if replay.advance(self.socket, &self.filter, &mut self.positions, session, effects) {
            self.end_replay(session, true, effects);
        }
    }

    /// Sends `resumed`; from here on the socket is served live.
    fn end_replay(&mut self, session: &SessionView<'_>, recovered: bool, effects: &mut Vec<Effect>) {
        let Some(replay) = self.replay.take() else { return };
        if !recovered {
            // The client reloads its state over REST.
            self.positions = session.positions;
            self.filter.restart_at(session.positions);
        }
        let frame = ServerFrame::Resumed {
            after: replay.after.own,
            offset: self.positions.own,
            after_broadcast: replay.after.broadcast,
            broadcast_offset: self.positions.broadcast,
            recovered,
            replayed: replay.replayed,
            id: replay.request.as_ref(),
        };
        push(self.socket, &frame, effects);
    }
}
