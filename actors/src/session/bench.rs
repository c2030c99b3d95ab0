//! A session without its actor, for the micro benchmarks: the cost of one event for all sockets of a user.

use std::sync::Arc;

use slotmap::SlotMap;

use super::{
    effect::Effect,
    filter::Positions,
    messages::{EventBatch, Join, SessionInput},
    state::State,
};
use crate::{
    config::RealtimeConfig,
    model::{AppId, Identity, Offset, Scope, StreamKey, StreamKind, UserId},
    protocol::parse_client_frame,
    socket_loop::key::SocketKey,
    testing::event,
};

/// A user with many sockets, each subscribed to everything.
pub struct FanOut {
    state: State,
    next: Offset,
    effects: Vec<Effect>,
}

impl FanOut {
    /// # Panics
    /// Where its own input is wrong.
    #[must_use]
    pub fn new(sockets: usize) -> Self {
        let (user, app) = (UserId::parse("alice").expect("an id"), AppId::parse("work-buddy").expect("an id"));
        let config = RealtimeConfig {
            epoch: "e1".into(),
            shards: 1,
            max_connections: sockets,
            heartbeat: std::time::Duration::from_secs(30),
            max_frame_bytes: 65_536,
            max_backlog_bytes: 262_144,
            compress_from: Some(1024),
        };
        let mut state = State::new(StreamKey::User(user.clone()), Positions { own: 0, broadcast: 0 }, &config);
        let mut effects = Vec::new();
        let identity = Arc::new(Identity::User { user, issuer: app, key: None, scope: Scope::AllApps });
        let mut keys = SlotMap::<SocketKey, ()>::with_key();
        for _ in 0..sockets {
            let socket = keys.insert(());
            state.on(
                SessionInput::Join(Join {
                    socket,
                    identity: identity.clone(),
                    expires_at: None,
                    deflate: false,
                    subscribe: None,
                }),
                &mut effects,
            );
            let frame = br#"{"action":"subscribe","event_types":["notification.*"]}"#;
            let frame = parse_client_frame(frame).expect("a frame");
            state.on(SessionInput::Frame { socket, frame: Ok(frame) }, &mut effects);
        }
        Self { state, next: 1, effects }
    }

    /// Delivers the next event. Returns the number of frames pushed. Each event is new, so its frame is encoded once.
    pub fn deliver(&mut self) -> usize {
        self.effects.clear();
        let events = EventBatch::One(event("alice", self.next, self.next));
        self.next += 1;
        self.state.on(SessionInput::Deliver { kind: StreamKind::User, events }, &mut self.effects);
        self.effects.iter().filter(|effect| matches!(effect, Effect::Push { .. })).count()
    }
}
