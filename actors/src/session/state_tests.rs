//! Sessions as pure functions: inputs in, effects out.

use bytes::Bytes;
use serde_json::{Value, json};
use slotmap::SlotMap;

use super::{super::messages::EventBatch, *};
use crate::{
    model::{AppId, Offset, UserId},
    ports::{Page, RefreshError},
    protocol::parse_client_frame,
    testing::{broadcast, event},
};

/// A session with some sockets, and what it did.
struct Bench {
    state: State,
    keys: SlotMap<SocketKey, ()>,
    effects: Vec<Effect>,
}

impl Bench {
    /// A user's session that begins where the stream ends at `head`.
    fn user_at(head: Offset) -> Self {
        Self::with_backlog(head, 262_144)
    }

    fn with_backlog(head: Offset, max_backlog_bytes: usize) -> Self {
        let stream = StreamKey::User(UserId::parse("alice").unwrap());
        let config = RealtimeConfig {
            epoch: "e1".into(),
            shards: 1,
            max_connections: 10,
            heartbeat: std::time::Duration::from_secs(30),
            max_frame_bytes: 65_536,
            max_backlog_bytes,
            compress_from: Some(300),
        };
        Self {
            state: State::new(stream, Positions { own: head, broadcast: 0 }, &config),
            keys: SlotMap::with_key(),
            effects: Vec::new(),
        }
    }

    fn input(&mut self, input: SessionInput) -> &mut Self {
        self.state.on(input, &mut self.effects);
        self
    }

    fn join(&mut self) -> SocketKey {
        self.join_with(false)
    }

    fn join_with(&mut self, deflate: bool) -> SocketKey {
        let socket = self.keys.insert(());
        let app = AppId::parse("work-buddy").unwrap();
        let user = UserId::parse("alice").unwrap();
        let identity = Identity::User { user, issuer: app.clone(), key: None, scope: Scope::App(app) };
        self.input(SessionInput::Join(Join {
            socket,
            identity: Arc::new(identity),
            expires_at: None,
            deflate,
            subscribe: None,
        }));
        socket
    }

    fn say(&mut self, socket: SocketKey, frame: Value) -> &mut Self {
        let frame = parse_client_frame(frame.to_string().as_bytes()).unwrap();
        self.input(SessionInput::Frame { socket, frame: Ok(frame) })
    }

    fn live(&mut self, offset: Offset) -> &mut Self {
        self.input(SessionInput::Deliver {
            kind: StreamKind::User,
            events: EventBatch::One(event("alice", offset, offset)),
        })
    }

    fn page(&mut self, offsets: std::ops::RangeInclusive<Offset>, head: Offset) -> Page {
        Page { events: offsets.map(|offset| event("alice", offset, offset)).collect(), head }
    }

    /// The frames pushed since the last look: `welcome`, `event 3`, …
    fn said(&mut self, socket: SocketKey) -> Vec<String> {
        let mut said = Vec::new();
        self.effects.retain(|effect| match effect {
            Effect::Push { socket: to, frame } if *to == socket => {
                let at = if frame[1] < 126 { 2 } else { 4 };
                let json: Value = serde_json::from_slice(&frame[at..]).unwrap();
                let kind = json["type"].as_str().unwrap().to_owned();
                said.push(if kind == "event" { format!("event {}", json["offset"]) } else { kind });
                false
            }
            _ => true,
        });
        said
    }

    /// The page a replay waits for.
    fn replay_wanted(&mut self) -> Option<(u32, StreamKind, Offset)> {
        let index = self.effects.iter().position(|effect| matches!(effect, Effect::LoadReplay { .. }))?;
        match self.effects.remove(index) {
            Effect::LoadReplay { replay_id, kind, after, .. } => Some((replay_id, kind, after)),
            _ => None,
        }
    }
}

#[test]
fn a_socket_is_welcomed_at_the_head_and_served_what_comes_later() {
    let mut bench = Bench::user_at(3);
    let socket = bench.join();
    assert_eq!(bench.said(socket), ["welcome"]);
    bench.say(socket, json!({"action": "subscribe", "event_types": ["**"]})).live(3).live(4);
    assert_eq!(bench.said(socket), ["subscribed", "event 4"]);
}

#[test]
fn a_head_beyond_the_session_has_the_events_in_between_read() {
    let mut bench = Bench::user_at(3);
    let socket = bench.join();
    bench.input(SessionInput::ObserveHead { kind: StreamKind::User, head: 4 });
    assert!(bench.effects.iter().any(|effect| matches!(effect, Effect::LoadPage { kind: StreamKind::User, after: 3 })));
    bench.say(socket, json!({"action": "subscribe", "event_types": ["**"], "after": 3}));
    let page = bench.page(4..=4, 4);
    bench.input(SessionInput::Page { kind: StreamKind::User, page: Ok(page) });
    assert_eq!(bench.said(socket), ["welcome", "subscribed", "resumed", "event 4"]);
}

#[test]
fn live_events_wait_behind_a_replay_and_come_once() {
    let mut bench = Bench::user_at(5);
    let socket = bench.join();
    bench.say(socket, json!({"action": "subscribe", "event_types": ["**"], "after": 2}));
    assert_eq!(bench.said(socket), ["welcome", "subscribed"]);
    let (replay_id, kind, after) = bench.replay_wanted().unwrap();
    assert_eq!((kind, after), (StreamKind::User, 2));
    // While the page is under way two more are committed; the page sees the first of them.
    bench.live(6).live(7);
    assert_eq!(bench.said(socket), Vec::<String>::new());
    let page = bench.page(3..=6, 6);
    bench.input(SessionInput::ReplayPage { socket, replay_id, kind, page });
    bench.live(8);
    let said = bench.said(socket);
    assert_eq!(said, ["event 3", "event 4", "event 5", "event 6", "event 7", "resumed", "event 8"]);
}

#[test]
fn a_page_that_runs_ahead_of_the_session_is_not_repeated_live() {
    let mut bench = Bench::user_at(1);
    let socket = bench.join();
    bench.say(socket, json!({"action": "subscribe", "event_types": ["**"], "after": 0}));
    let (replay_id, kind, _) = bench.replay_wanted().unwrap();
    let page = bench.page(1..=3, 3);
    bench.input(SessionInput::ReplayPage { socket, replay_id, kind, page }).live(2).live(3).live(4);
    let said = bench.said(socket);
    assert_eq!(said, ["welcome", "subscribed", "event 1", "event 2", "event 3", "resumed", "event 4"]);
}

#[test]
fn a_replay_waits_for_a_slow_socket() {
    let mut bench = Bench::with_backlog(20, 2000);
    let socket = bench.join();
    bench.say(socket, json!({"action": "subscribe", "event_types": ["**"], "after": 0}));
    let (replay_id, kind, _) = bench.replay_wanted().unwrap();
    let page = bench.page(1..=20, 20);
    bench.input(SessionInput::ReplayPage { socket, replay_id, kind, page });
    let mut bursts = 0;
    let mut events = 0;
    loop {
        let said = bench.said(socket);
        events += said.iter().filter(|frame| frame.starts_with("event")).count();
        if said.iter().any(|frame| frame == "resumed") {
            break;
        }
        bursts += 1;
        assert!(bench.effects.iter().any(|effect| matches!(effect, Effect::NotifyWhenDrained { .. })));
        bench.effects.clear();
        bench.input(SessionInput::Drained { socket });
    }
    assert!(bursts > 2, "{bursts} bursts");
    assert_eq!(events, 20);
}

#[test]
fn a_replay_of_many_small_pages_waits_for_a_slow_socket() {
    const BURST: usize = 1000;
    let mut bench = Bench::with_backlog(60, 2 * BURST);
    let socket = bench.join();
    bench.say(socket, json!({"action": "subscribe", "event_types": ["**"], "after": 0}));
    bench.effects.retain(|effect| !matches!(effect, Effect::Push { .. }));
    let (mut events, mut waiting_bytes, mut largest) = (0, 0, 0);
    loop {
        if let Some((replay_id, kind, after)) = bench.replay_wanted() {
            let page = bench.page(after + 1..=after + 2, 60);
            bench.input(SessionInput::ReplayPage { socket, replay_id, kind, page });
        } else {
            bench.effects.retain(|effect| !matches!(effect, Effect::NotifyWhenDrained { .. }));
            waiting_bytes = 0;
            bench.input(SessionInput::Drained { socket });
        }
        for effect in &bench.effects {
            if let Effect::Push { frame, .. } = effect {
                waiting_bytes += frame.len();
                largest = largest.max(frame.len());
            }
        }
        assert!(waiting_bytes <= BURST + largest, "{waiting_bytes} bytes wait for the socket");
        let said = bench.said(socket);
        events += said.iter().filter(|frame| frame.starts_with("event")).count();
        if said.iter().any(|frame| frame == "resumed") {
            break;
        }
    }
    assert_eq!(events, 60);
}

#[test]
fn a_gap_is_filled_before_what_came_after_it() {
    let mut bench = Bench::user_at(1);
    let socket = bench.join();
    bench.say(socket, json!({"action": "subscribe", "event_types": ["**"]})).live(4).live(5);
    assert_eq!(bench.said(socket), ["welcome", "subscribed"]);
    bench.input(SessionInput::ReorderTimeout { kind: StreamKind::User });
    assert!(matches!(bench.effects.last(), Some(Effect::LoadPage { kind: StreamKind::User, after: 1 })));
    let page = bench.page(2..=4, 5);
    bench.input(SessionInput::Page { kind: StreamKind::User, page: Ok(page) });
    assert_eq!(bench.said(socket), ["event 2", "event 3", "event 4", "event 5"]);
}

#[test]
fn broadcasts_wait_for_the_end_of_a_replay() {
    let mut bench = Bench::user_at(1);
    let socket = bench.join();
    bench.say(socket, json!({"action": "subscribe", "event_types": ["**"], "after": 0}));
    let (replay_id, kind, _) = bench.replay_wanted().unwrap();
    bench.input(SessionInput::Deliver { kind: StreamKind::Broadcast, events: EventBatch::One(broadcast(1, 9)) });
    let page = bench.page(1..=1, 1);
    bench.input(SessionInput::ReplayPage { socket, replay_id, kind, page });
    bench.input(SessionInput::Deliver { kind: StreamKind::Broadcast, events: EventBatch::One(broadcast(2, 10)) });
    assert_eq!(bench.said(socket), ["welcome", "subscribed", "event 1", "event 1", "resumed", "event 2"]);
}

#[test]
fn a_socket_that_left_is_served_no_more() {
    let mut bench = Bench::user_at(0);
    let (left, stays) = (bench.join(), bench.join());
    for socket in [left, stays] {
        bench.say(socket, json!({"action": "subscribe", "event_types": ["**"]}));
    }
    bench.input(SessionInput::Left { socket: left }).live(1);
    assert_eq!(bench.said(left), ["welcome", "subscribed"]);
    assert_eq!(bench.said(stays), ["welcome", "subscribed", "event 1"]);
}

#[test]
fn a_second_replay_does_not_repeat_the_first_ones() {
    let mut bench = Bench::user_at(4);
    let socket = bench.join();
    bench.say(socket, json!({"action": "subscribe", "event_types": ["notification.created"], "after": 2}));
    let (replay_id, kind, after) = bench.replay_wanted().unwrap();
    assert_eq!(after, 2);
    let page = bench.page(3..=4, 4);
    bench.input(SessionInput::ReplayPage { socket, replay_id, kind, page });
    assert_eq!(bench.said(socket), ["welcome", "subscribed", "event 3", "event 4", "resumed"]);
    bench.say(socket, json!({"action": "subscribe", "event_types": ["user.*"], "after": 2}));
    let (replay_id, kind, _) = bench.replay_wanted().unwrap();
    let page = bench.page(3..=4, 4);
    bench.input(SessionInput::ReplayPage { socket, replay_id, kind, page });
    assert_eq!(bench.said(socket), ["subscribed", "resumed"]);
    // Further back than the first: what that one did not bring comes now.
    bench.say(socket, json!({"action": "subscribe", "event_types": ["session.*"], "after": 1}));
    let (replay_id, kind, _) = bench.replay_wanted().unwrap();
    let page = bench.page(2..=4, 4);
    bench.input(SessionInput::ReplayPage { socket, replay_id, kind, page });
    assert_eq!(bench.said(socket), ["subscribed", "event 2", "resumed"]);
}

#[test]
fn what_a_failed_recovery_passed_over_is_not_taken_for_sent() {
    let mut bench = Bench::user_at(3);
    let socket = bench.join();
    bench.say(socket, json!({"action": "subscribe", "event_types": ["notification.created"]}));
    bench.say(socket, json!({"action": "subscribe", "event_types": ["user.*"], "after": 1}));
    let (replay_id, kind, _) = bench.replay_wanted().unwrap();
    bench.live(4);
    // History no longer reaches back to 2.
    let page = bench.page(3..=4, 4);
    bench.input(SessionInput::ReplayPage { socket, replay_id, kind, page });
    assert_eq!(bench.said(socket), ["welcome", "subscribed", "subscribed", "resumed"]);
    bench.say(socket, json!({"action": "subscribe", "event_types": ["notification.created"], "after": 3}));
    let (replay_id, kind, _) = bench.replay_wanted().unwrap();
    let page = bench.page(4..=4, 4);
    bench.input(SessionInput::ReplayPage { socket, replay_id, kind, page });
    assert_eq!(bench.said(socket), ["subscribed", "event 4", "resumed"]);
}

#[test]
fn one_refresh_at_a_time() {
    let mut bench = Bench::user_at(0);
    let socket = bench.join();
    let refresh = || json!({"action": "refresh", "token": "t"});
    bench.say(socket, refresh()).say(socket, refresh());
    assert_eq!(bench.effects.iter().filter(|effect| matches!(effect, Effect::Refresh { .. })).count(), 1);
    assert_eq!(bench.said(socket), ["welcome", "error"]);
    let outcome = Err(RefreshError { code: "unauthenticated", message: String::new() });
    bench.input(SessionInput::Refreshed { socket, id: None, outcome }).say(socket, refresh());
    assert_eq!(bench.effects.iter().filter(|effect| matches!(effect, Effect::Refresh { .. })).count(), 2);
}

#[test]
fn a_long_event_is_compressed_once_and_for_those_who_agreed() {
    let mut bench = Bench::user_at(0);
    let sockets = [bench.join_with(false), bench.join_with(true), bench.join_with(true)];
    for socket in sockets {
        bench.say(socket, json!({"action": "subscribe", "event_types": ["**"]}));
    }
    bench.effects.clear();
    let event = event("alice", 1, 1);
    let long = event.frame(StreamKind::User).len() >= 300;
    bench.input(SessionInput::Deliver { kind: StreamKind::User, events: EventBatch::One(event) });
    let frames: Vec<Bytes> = bench
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Push { frame, .. } => Some(frame.clone()),
            _ => None,
        })
        .collect();
    assert!(long && frames.len() == 3);
    assert_eq!(frames.iter().map(|frame| frame[0]).collect::<Vec<_>>(), [0x81, 0xC1, 0xC1]);
    assert_eq!(frames[1].as_ptr(), frames[2].as_ptr(), "the same bytes");
}
