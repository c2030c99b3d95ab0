//! What a session decides, as a pure function: an input goes in, effects come out. No actor, no clock, no store.

use std::{collections::VecDeque, sync::Arc};

use super::{
    effect::{Effect, push, record_receipt},
    filter::Positions,
    member::{Member, Subscribe},
    messages::{Join, SessionInput},
    replay::SessionView,
};
use crate::{
    config::RealtimeConfig,
    model::{ConnectionId, Identity, Scope, StreamKey, StreamKind},
    ports::Unavailable,
    protocol::{ClientFrame, FrameError, PublishedEvent, ServerFrame},
    socket_loop::key::SocketKey,
    stream_cursor::{Need, StreamCursor},
};

/// Delivered events kept while a socket replays, so that it can step over to live: their number, …
const RECENT: usize = 512;
/// … and their bytes.
const RECENT_BYTES: usize = 1 << 20;

/// A session's whole state.
pub(super) struct State {
    stream: StreamKey,
    epoch: Arc<str>,
    heartbeat_seconds: u64,
    /// Bytes of a replay that are pushed before the socket must have taken them.
    replay_burst_bytes: usize,
    /// Frame size in bytes from which events are compressed for sockets that negotiated it.
    compress_from: usize,
    /// The position in the holder's own stream.
    own: StreamCursor,
    /// The position in the broadcast stream. An app's session does not move it: its own stream holds its broadcasts.
    broadcast: StreamCursor,
    members: Vec<Member>,
    /// The last events delivered, while any socket replays.
    recent: VecDeque<(StreamKind, Arc<PublishedEvent>)>,
    recent_bytes: usize,
    next_replay_id: u32,
}

impl State {
    /// `heads`: how far both streams reach. What is later is delivered live.
    pub(super) fn new(stream: StreamKey, heads: Positions, config: &RealtimeConfig) -> Self {
        Self {
            own: StreamCursor::at(stream.kind(), heads.own),
            broadcast: StreamCursor::at(StreamKind::Broadcast, heads.broadcast),
            stream,
            epoch: config.epoch.clone(),
            heartbeat_seconds: config.heartbeat.as_secs(),
            replay_burst_bytes: config.replay_burst_bytes(),
            compress_from: config.compress_from.unwrap_or(usize::MAX),
            members: Vec::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            next_replay_id: 0,
        }
    }

    pub(super) fn stream(&self) -> &StreamKey {
        &self.stream
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = SocketKey> + '_ {
        self.members.iter().map(|member| member.socket)
    }

    /// Takes one input and appends what is to be done to `effects`.
    pub(super) fn on(&mut self, input: SessionInput, effects: &mut Vec<Effect>) {
        match input {
            SessionInput::Join(join) => self.welcome(join, effects),
            SessionInput::Left { socket } => {
                self.members.retain(|member| member.socket != socket);
                self.drop_recent_if_unused();
            }
            SessionInput::Frame { socket, frame } => self.on_frame(socket, frame, effects),
            SessionInput::Drained { socket } => {
                self.replaying(socket, |member, session| member.on_drained(session, effects));
            }
            SessionInput::Deliver { kind, events } => {
                let events = events.as_slice();
                let cursor = self.cursor(kind);
                let mut ready = Vec::with_capacity(events.len());
                for event in events {
                    let need = cursor.accept(event.clone(), &mut ready);
                    request(kind, need, effects);
                }
                self.deliver(kind, ready, effects);
            }
            SessionInput::ObserveHead { kind, head } => {
                let need = self.cursor(kind).observe_head(head);
                request(kind, need, effects);
            }
            SessionInput::SendFrame { frame } => {
                for member in &self.members {
                    effects.push(Effect::Push { socket: member.socket, frame: frame.clone() });
                }
            }
            SessionInput::Probe => {
                effects.extend(self.members.iter().map(|member| Effect::Probe { socket: member.socket }));
            }
            SessionInput::Page { kind, page } => {
                let mut ready = Vec::new();
                let need = match page {
                    Ok(page) => self.cursor(kind).page(page, &mut ready),
                    Err(Unavailable) => self.cursor(kind).page_failed(),
                };
                self.deliver(kind, ready, effects);
                request(kind, need, effects);
            }
            SessionInput::ReorderTimeout { kind } => {
                let need = self.cursor(kind).reorder_timeout();
                request(kind, need, effects);
            }
            SessionInput::ReplayPage { socket, replay_id, kind, page } => {
                self.replaying(socket, |member, session| {
                    member.on_replay_page(replay_id, kind, page, session, effects);
                });
            }
            SessionInput::Refreshed { socket, id, outcome } => {
                if let Some(member) = self.member(socket) {
                    member.is_refreshing = false;
                }
                let frame = match &outcome {
                    Ok(expiry) => ServerFrame::Refreshed { expires_at: Some(expiry.at), id: id.as_ref() },
                    Err(error) => ServerFrame::Error { code: error.code, message: &error.message, id: id.as_ref() },
                };
                push(socket, &frame, effects);
            }
            #[cfg(any(test, feature = "testing"))]
            SessionInput::Panic => panic!("a session that was told to panic"),
        }
    }

    fn cursor(&mut self, kind: StreamKind) -> &mut StreamCursor {
        if kind == StreamKind::Broadcast { &mut self.broadcast } else { &mut self.own }
    }

    /// How far the session has delivered.
    fn positions(&self) -> Positions {
        Positions { own: self.own.position(), broadcast: self.broadcast.position() }
    }

    fn member(&mut self, socket: SocketKey) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.socket == socket)
    }

    /// Does a step of a socket's replay, if the socket is still here.
    fn replaying(&mut self, socket: SocketKey, step: impl FnOnce(&mut Member, &SessionView<'_>)) {
        let session = SessionView {
            positions: self.positions(),
            own_kind: self.stream.kind(),
            recent: &self.recent,
            burst_bytes: self.replay_burst_bytes,
            epoch: &self.epoch,
        };
        if let Some(member) = self.members.iter_mut().find(|member| member.socket == socket) {
            step(member, &session);
        }
        self.drop_recent_if_unused();
    }

    fn welcome(&mut self, join: Join, effects: &mut Vec<Effect>) {
        let Join { socket, identity, expires_at, deflate, subscribe } = join;
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
        let compress_from = if deflate { self.compress_from } else { usize::MAX };
        // Most users have one socket; `push` alone would reserve room for four and cost each of them 200 bytes.
        self.members.reserve_exact(1);
        self.members.push(Member::new(socket, identity, positions, compress_from));
        if let Some(frame) = subscribe {
            self.on_frame(socket, Ok(frame), effects);
        }
    }

    fn deliver(&mut self, kind: StreamKind, ready: Vec<Arc<PublishedEvent>>, effects: &mut Vec<Effect>) {
        let is_any_replaying = self.members.iter().any(|member| member.replay.is_some());
        for event in ready {
            let mut was_pushed = false;
            for member in &mut self.members {
                if member.takes_live(kind, &event) {
                    let frame = member.filter.frame_for(&event, kind);
                    effects.push(Effect::Push { socket: member.socket, frame });
                    was_pushed = true;
                }
            }
            if was_pushed {
                record_receipt(kind, &event, effects);
            }
            if is_any_replaying {
                self.recent_bytes += event.bytes();
                self.recent.push_back((kind, event));
                while self.recent.len() > RECENT || self.recent_bytes > RECENT_BYTES {
                    let Some((_, oldest)) = self.recent.pop_front() else { break };
                    self.recent_bytes -= oldest.bytes();
                }
            }
        }
    }

    fn drop_recent_if_unused(&mut self) {
        if !self.recent.is_empty() && self.members.iter().all(|member| member.replay.is_none()) {
            self.recent = VecDeque::new();
            self.recent_bytes = 0;
        }
    }

    fn on_frame(&mut self, socket: SocketKey, frame: Result<ClientFrame, FrameError>, effects: &mut Vec<Effect>) {
        let Some(member) = self.member(socket) else { return };
        let frame = match frame {
            Ok(frame) => frame,
            Err(FrameError { code, message, id }) => {
                return push(socket, &ServerFrame::Error { code, message: &message, id: id.as_ref() }, effects);
            }
        };
        match frame {
            ClientFrame::Subscribe { patterns, after, after_broadcast, epoch, id } => {
                let subscribe = Subscribe { patterns, after, after_broadcast, epoch, id };
                let replay_id = self.next_replay_id;
                self.next_replay_id = replay_id.wrapping_add(1);
                self.replaying(socket, |member, session| member.subscribe(subscribe, session, replay_id, effects));
            }
            ClientFrame::Unsubscribe { patterns, id } => {
                member.filter.unsubscribe(&patterns);
                let event_types = member.filter.event_types();
                push(socket, &ServerFrame::Unsubscribed { event_types, id: id.as_ref() }, effects);
            }
            ClientFrame::Refresh { id, .. } if member.is_refreshing => {
                let message = "a refresh is in progress on this socket; wait for its answer";
                push(socket, &ServerFrame::Error { code: "conflict", message, id: id.as_ref() }, effects);
            }
            ClientFrame::Refresh { token, id } => {
                member.is_refreshing = true;
                let identity = member.filter.identity.clone();
                effects.push(Effect::Refresh { socket, identity, token, id });
            }
            // The socket loop answers pings itself, once the socket has its `welcome`.
            ClientFrame::Ping { id } => push(socket, &ServerFrame::Pong { id: id.as_ref() }, effects),
        }
    }
}

/// Turns what a cursor needs into an effect.
fn request(kind: StreamKind, need: Need, effects: &mut Vec<Effect>) {
    match need {
        Need::Nothing => {}
        Need::WaitForReorder => effects.push(Effect::WaitForReorder { kind }),
        Need::Page { after } => effects.push(Effect::LoadPage { kind, after }),
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
