//! What a session decides, as a pure function: an input goes in, effects come out. No actor, no clock, no store.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    Events,
    member::{Member, Positions},
    replay::{Replay, Waiting},
    resume::Resume,
};
use crate::{
    stream_cursor::{StreamCursor, HeadQuery, Need},
    model::{ConnectionId, Identity, Offset, PublishedEvent, Scope, StreamKey, StreamKind},
    realtime::RealtimeConfig,
    ports::{Expiry, Page, RefreshError, Unavailable},
    protocol::{ClientFrame, FrameId, ServerFrame, pattern_texts},
    socket_loop::SocketKey,
    registry::Join,
};

/// Events kept while a socket is catching up, so that it can step over to live.
const RECENT: usize = 512;

/// What happens to a session.
pub(super) enum Input {
    Started,
    Head {
        kind: StreamKind,
        head: Offset,
    },
    Page {
        kind: StreamKind,
        page: Result<Page, Unavailable>,
    },
    Deliver {
        kind: StreamKind,
        events: Events,
    },
    /// An event that was overtaken was waited for long enough.
    ReorderTimeout {
        kind: StreamKind,
    },
    CatchUp,
    /// The stream reaches to here.
    ObserveHead {
        head: Offset,
    },
    SendFrame {
        frame: Bytes,
    },
    Join(Join),
    Left {
        socket: SocketKey,
    },
    Frame {
        socket: SocketKey,
        frame: ClientFrame,
    },
    Drained {
        socket: SocketKey,
    },
    ReplayPage {
        socket: SocketKey,
        replay_id: u32,
        kind: StreamKind,
        page: Page,
    },
    Refreshed {
        socket: SocketKey,
        id: Option<FrameId>,
        outcome: Result<Expiry, RefreshError>,
    },
}

/// What a session does about it.
#[derive(Debug)]
pub(super) enum Effect {
    /// The socket may be read from now on.
    Open {
        socket: SocketKey,
    },
    Push {
        socket: SocketKey,
        frame: Bytes,
    },
    /// A socket of the user was pushed this.
    Receipt {
        event: Arc<PublishedEvent>,
    },
    TellWhenDrained {
        socket: SocketKey,
    },
    LoadHead {
        kind: StreamKind,
    },
    /// Says [`Input::ReorderTimeout`] after a moment.
    WaitForReorder {
        kind: StreamKind,
    },
    LoadPage {
        kind: StreamKind,
        after: Offset,
    },
    LoadReplay {
        socket: SocketKey,
        replay_id: u32,
        kind: StreamKind,
        after: Offset,
    },
    Refresh {
        socket: SocketKey,
        identity: Arc<Identity>,
        token: String,
        id: Option<FrameId>,
    },
}

/// A session's whole state.
pub(super) struct State {
    pub(super) stream: StreamKey,
    pub(super) epoch: Arc<str>,
    heartbeat_seconds: u64,
    /// Bytes of a replay that are pushed before the socket has to have taken them.
    pub(super) replay_burst_bytes: usize,
    /// Bytes from which an event is compressed for sockets that agreed on it.
    compress_from: usize,
    /// The stream followed by right; `None` until its end is known.
    own: Option<StreamCursor>,
    /// The highest offset heard of before that. The end that is asked for may have been read just before it.
    highest_heard: Offset,
    broadcast: StreamCursor,
    own_head_query: HeadQuery,
    broadcast_head_query: HeadQuery,
    /// Who came before the stream's end was known.
    newcomers: Vec<Join>,
    pub(super) members: Vec<(SocketKey, Member)>,
    /// The last events delivered, while somebody replays.
    pub(super) recent: VecDeque<(StreamKind, Arc<PublishedEvent>)>,
    pub(super) next_replay_id: u32,
}

impl State {
    pub(super) fn new(stream: StreamKey, broadcast_position: Offset, config: &RealtimeConfig) -> Self {
        Self {
            stream,
            epoch: config.epoch.clone(),
            heartbeat_seconds: config.heartbeat.as_secs(),
            replay_burst_bytes: config.max_backlog_bytes / 2,
            compress_from: config.compress_from.unwrap_or(usize::MAX),
            own: None,
            highest_heard: 0,
            broadcast: StreamCursor::at(StreamKind::Broadcast, broadcast_position),
            own_head_query: HeadQuery::default(),
            broadcast_head_query: HeadQuery::default(),
            newcomers: Vec::new(),
            members: Vec::new(),
            recent: VecDeque::new(),
            next_replay_id: 0,
        }
    }

    pub(super) fn stream(&self) -> &StreamKey {
        &self.stream
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = SocketKey> + '_ {
        self.members.iter().map(|(key, _)| *key).chain(self.newcomers.iter().map(|join| join.socket))
    }

    pub(super) fn on(&mut self, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Started => self.load_head(self.stream.kind(), effects),
            Input::Head { kind, head } => self.on_head(kind, head, effects),
            Input::Page { kind, page } => {
                let mut ready = Vec::new();
                let Some(cursor) = self.cursor(kind) else { return };
                let need = match page {
                    Ok(page) => cursor.page(page, &mut ready),
                    Err(Unavailable) => cursor.page_failed(),
                };
                self.deliver(kind, ready, effects);
                load(kind, need, effects);
            }
            Input::Deliver { kind, events } => {
                let events = events.as_slice();
                let Some(cursor) = self.cursor(kind) else {
                    let highest_heard = events.iter().map(|event| event.offset_in(kind)).max();
                    self.highest_heard = self.highest_heard.max(highest_heard.unwrap_or(0));
                    return;
                };
                let mut ready = Vec::with_capacity(events.len());
                for event in events {
                    let need = cursor.accept(event.clone(), &mut ready);
                    load(kind, need, effects);
                }
                self.deliver(kind, ready, effects);
            }
            Input::ReorderTimeout { kind } => {
                let Some(cursor) = self.cursor(kind) else { return };
                let need = cursor.reorder_timeout();
                load(kind, need, effects);
            }
            Input::CatchUp => {
                self.load_head(self.stream.kind(), effects);
                if self.follows_broadcasts() {
                    self.load_head(StreamKind::Broadcast, effects);
                }
            }
            Input::ObserveHead { head } => {
                let kind = self.stream.kind();
                let Some(cursor) = self.cursor(kind) else {
                    self.highest_heard = self.highest_heard.max(head);
                    return;
                };
                let need = cursor.observe_head(head);
                load(kind, need, effects);
            }
            Input::SendFrame { frame } => {
                for (socket, _) in &self.members {
                    effects.push(Effect::Push { socket: *socket, frame: frame.clone() });
                }
            }
            Input::Join(join) => match &self.own {
                Some(_) => self.welcome(join, effects),
                None => self.newcomers.push(join),
            },
            Input::Left { socket } => {
                self.members.retain(|(key, _)| *key != socket);
                self.newcomers.retain(|join| join.socket != socket);
                self.forget_recent();
            }
            Input::Frame { socket, frame } => self.on_frame(socket, frame, effects),
            Input::Drained { socket } => {
                if let Some(replay) = self.replay_of(socket)
                    && replay.waiting == Some(Waiting::Drained)
                {
                    replay.waiting = None;
                    self.advance(socket, effects);
                }
            }
            Input::ReplayPage { socket, replay_id, kind, page } => self.on_replay_page(socket, replay_id, kind, page, effects),
            Input::Refreshed { socket, id, outcome } => {
                if let Some(member) = self.member(socket) {
                    member.refreshing = false;
                }
                let frame = match &outcome {
                    Ok(expiry) => ServerFrame::Refreshed { expires_at: Some(expiry.at), id: id.as_ref() },
                    Err(refused) => {
                        ServerFrame::Error { code: refused.code, message: &refused.message, id: id.as_ref() }
                    }
                };
                push(socket, &frame, effects);
            }
        }
    }

    pub(super) fn follows_broadcasts(&self) -> bool {
        self.stream.kind() == StreamKind::User
    }

    fn cursor(&mut self, kind: StreamKind) -> Option<&mut StreamCursor> {
        if kind == StreamKind::Broadcast { Some(&mut self.broadcast) } else { self.own.as_mut() }
    }

    /// How far the session itself has come.
    pub(super) fn positions(&self) -> Positions {
        Positions { own: self.own.as_ref().map_or(0, StreamCursor::position), broadcast: self.broadcast.position() }
    }

    pub(super) fn member(&mut self, socket: SocketKey) -> Option<&mut Member> {
        self.members.iter_mut().find(|(key, _)| *key == socket).map(|(_, member)| member)
    }

    fn replay_of(&mut self, socket: SocketKey) -> Option<&mut Replay> {
        self.member(socket)?.replay.as_deref_mut()
    }

    fn head_query(&mut self, kind: StreamKind) -> &mut HeadQuery {
        if kind == StreamKind::Broadcast { &mut self.broadcast_head_query } else { &mut self.own_head_query }
    }

    fn load_head(&mut self, kind: StreamKind, effects: &mut Vec<Effect>) {
        if self.head_query(kind).ask() {
            effects.push(Effect::LoadHead { kind });
        }
    }

    fn on_head(&mut self, kind: StreamKind, head: Offset, effects: &mut Vec<Effect>) {
        if self.head_query(kind).answered() {
            effects.push(Effect::LoadHead { kind });
        }
        if let Some(cursor) = self.cursor(kind) {
            let need = cursor.observe_head(head);
            return load(kind, need, effects);
        }
        let mut cursor = StreamCursor::at(kind, head);
        let need = cursor.observe_head(self.highest_heard);
        self.own = Some(cursor);
        load(kind, need, effects);
        for join in std::mem::take(&mut self.newcomers) {
            self.welcome(join, effects);
        }
    }

    fn welcome(&mut self, join: Join, effects: &mut Vec<Effect>) {
        let Join { socket, identity, expires_at, deflates } = join;
        let positions = self.positions();
        let app_id = match &*identity {
            Identity::App { app, .. } | Identity::User { scope: Scope::App(app), .. } => Some(app),
            Identity::User { scope: Scope::AllApps, .. } => None,
        };
        let frame = ServerFrame::Welcome {
            connection_id: ConnectionId::generate(),
            user_id: identity.user(),
            app_id,
            offset: positions.own,
            broadcast_offset: positions.broadcast,
            epoch: &self.epoch,
            heartbeat_interval: self.heartbeat_seconds,
            expires_at,
        };
        effects.push(Effect::Open { socket });
        push(socket, &frame, effects);
        let compress_from = if deflates { self.compress_from } else { usize::MAX };
        let member =
            Member { identity, subscriptions: Vec::new(), positions, replay: None, refreshing: false, compress_from };
        // Most users have one socket, and room for four costs each of them 200 bytes.
        self.members.reserve_exact(1);
        self.members.push((socket, member));
    }

    fn deliver(&mut self, kind: StreamKind, ready: Vec<Arc<PublishedEvent>>, effects: &mut Vec<Effect>) {
        let replaying = self.members.iter().any(|(_, member)| member.replay.is_some());
        for event in ready {
            let mut pushed = false;
            for (socket, member) in &mut self.members {
                if member.takes(kind, &event) {
                    effects.push(Effect::Push { socket: *socket, frame: member.frame_of(&event, kind) });
                    pushed = true;
                }
            }
            if pushed {
                record_receipt(kind, &event, effects);
            }
            if replaying {
                if self.recent.len() == RECENT {
                    self.recent.pop_front();
                }
                self.recent.push_back((kind, event));
            }
        }
    }

    pub(super) fn forget_recent(&mut self) {
        if self.members.iter().all(|(_, member)| member.replay.is_none()) {
            self.recent = VecDeque::new();
        }
    }

    fn on_frame(&mut self, socket: SocketKey, frame: ClientFrame, effects: &mut Vec<Effect>) {
        let Some(member) = self.member(socket) else { return };
        match frame {
            ClientFrame::Subscribe { patterns, after, after_broadcast, epoch, id } => {
                let resume = Resume { after, after_broadcast, epoch };
                self.subscribe(socket, patterns, resume, id, effects);
            }
            ClientFrame::Unsubscribe { patterns, id } => {
                member.unsubscribe(&patterns);
                let event_types = pattern_texts(member.subscriptions.iter().map(|subscription| &subscription.pattern));
                push(socket, &ServerFrame::Unsubscribed { event_types, id: id.as_ref() }, effects);
            }
            ClientFrame::Refresh { id, .. } if member.refreshing => {
                let message = "a refresh is under way on this socket; wait for its answer";
                push(socket, &ServerFrame::Error { code: "conflict", message, id: id.as_ref() }, effects);
            }
            ClientFrame::Refresh { token, id } => {
                member.refreshing = true;
                let identity = member.identity.clone();
                effects.push(Effect::Refresh { socket, identity, token, id });
            }
            // Answered by the pump already.
            ClientFrame::Ping { id } => push(socket, &ServerFrame::Pong { id: id.as_ref() }, effects),
        }
    }
}

fn load(kind: StreamKind, need: Need, effects: &mut Vec<Effect>) {
    match need {
        Need::Nothing => {}
        Need::WaitForReorder => effects.push(Effect::WaitForReorder { kind }),
        Need::Page { after } => effects.push(Effect::LoadPage { kind, after }),
    }
}

/// Notes that a notification reached its user.
pub(super) fn record_receipt(kind: StreamKind, event: &Arc<PublishedEvent>, effects: &mut Vec<Effect>) {
    if kind == StreamKind::User && event.event().announces_notification() {
        effects.push(Effect::Receipt { event: event.clone() });
    }
}

pub(super) fn push(socket: SocketKey, frame: &ServerFrame<'_>, effects: &mut Vec<Effect>) {
    effects.push(Effect::Push { socket, frame: frame.encode() });
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
