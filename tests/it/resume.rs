//! Reconnecting with `after`: nothing is missed, and nothing comes twice (contract §5).

use std::time::Duration;

use serde_json::json;

use crate::{
    harness::{App, Backend, Database, HubProcess, Socket, TestHub, callers::read, process::create_app},
    on_both_stores,
};

on_both_stores!(
    a_reconnecting_socket_gets_only_what_it_missed,
    recovery_is_never_partial,
    a_resume_replays_what_the_patterns_and_the_scope_allow,
    broadcasts_are_resumed_too,
    a_second_pattern_replays_only_what_was_not_sent,
    a_long_replay_of_large_events_is_paced,
    reconnecting_during_a_burst_misses_and_repeats_nothing,
    twenty_thousand_missed_events_reach_a_client_that_reads_slowly_and_pauses,
);

fn offsets(events: &[serde_json::Value]) -> Vec<u64> {
    events.iter().map(|event| event["offset"].as_u64().unwrap()).collect()
}

async fn a_reconnecting_socket_gets_only_what_it_missed(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    for n in 0..300 {
        app.publish("alice", n).await;
    }
    let mut socket = app.connect("alice").await;
    let (events, resumed) = socket.resume(0).await;
    assert_eq!(offsets(&events), (1..=300).collect::<Vec<_>>());
    assert_eq!((&resumed["recovered"], &resumed["replayed"]), (&json!(true), &json!(300)));
    assert_eq!((&resumed["after"], &resumed["offset"]), (&json!(0), &json!(300)));
    app.publish("alice", "live").await;
    assert_eq!(socket.offset().await, 301);

    let mut socket = app.connect("alice").await;
    let (events, resumed) = socket.resume(299).await;
    assert_eq!((offsets(&events), &resumed["replayed"]), (vec![300, 301], &json!(2)));
    let mut socket = app.connect("alice").await;
    let (events, resumed) = socket.resume(301).await;
    assert_eq!((events.len(), &resumed["recovered"]), (0, &json!(true)));
    let mut server = app.connect_app().await;
    let (events, _) = server.resume(298).await;
    assert_eq!((offsets(&events), &events[0]["stream"]), (vec![299, 300, 301], &json!("app")));
}

async fn recovery_is_never_partial(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    for n in 0..5 {
        app.publish("alice", n).await;
    }
    let mut socket = app.connect("alice").await;
    let epoch = socket.welcome["epoch"].clone();
    let (events, resumed) = socket.resume(99).await;
    assert_eq!((events.len(), &resumed["recovered"], &resumed["offset"]), (0, &json!(false), &json!(5)));
    app.publish("alice", "live").await;
    assert_eq!(socket.offset().await, 6, "it goes on live");

    for (named, recovered) in [(json!("another"), false), (epoch, true)] {
        let mut socket = app.connect("alice").await;
        let subscribe = json!({"action": "subscribe", "event_types": ["**"], "after": 2, "epoch": named, "id": "r"});
        assert_eq!(socket.ask(subscribe).await["id"], "r");
        let (events, resumed) = socket.replayed().await;
        assert_eq!((events.len(), &resumed["recovered"]), (if recovered { 4 } else { 0 }, &json!(recovered)));
        assert_eq!(resumed["id"], "r");
    }

    // History that no longer reaches back.
    let store = hub.database.store().await;
    delete_event(&hub, 1).await;
    drop(store);
    let mut socket = app.connect("alice").await;
    let (events, resumed) = socket.resume(0).await;
    assert_eq!((events.len(), &resumed["recovered"]), (0, &json!(false)));
    let mut socket = app.connect("alice").await;
    assert_eq!(offsets(&socket.resume(1).await.0), [2, 3, 4, 5, 6]);
}

/// As the archiver does.
async fn delete_event(hub: &TestHub, user_offset: i64) {
    let sql = format!("delete from platform_events where user_offset = {user_offset}");
    match hub.database.backend {
        Backend::Sqlite => {
            use sqlx::Connection as _;
            let mut connection = sqlx::SqliteConnection::connect(&hub.database.url).await.unwrap();
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        }
        Backend::Postgres => {
            use sqlx_pg::Connection as _;
            let mut connection = sqlx_pg::PgConnection::connect(&hub.database.owner_url).await.unwrap();
            sqlx_pg::query(&sql).execute(&mut connection).await.unwrap();
        }
    }
}

async fn a_resume_replays_what_the_patterns_and_the_scope_allow(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other) = (hub.app("a").await, hub.app("b").await);
    app.publish("alice", "1").await;
    other.publish("alice", "2").await;
    let mut dismissed = App::event("alice", "3");
    dismissed["event_type"] = json!("dismissed");
    app.post(&dismissed).await;
    let mut socket = app.connect("alice").await;
    socket.send(json!({"action": "subscribe", "event_types": ["notification.created"], "after": 0})).await;
    assert_eq!(socket.frame().await["type"], "subscribed");
    let (events, resumed) = socket.replayed().await;
    assert_eq!((offsets(&events), &resumed["offset"]), (vec![1], &json!(3)));
}

async fn broadcasts_are_resumed_too(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other, core) = (hub.app("a").await, hub.app("b").await, hub.platform_app("core").await);
    app.broadcast("b1").await;
    app.publish("alice", "u1").await;
    other.broadcast("b2").await;
    core.broadcast("b3").await;
    let mut socket = app.connect("alice").await;
    assert_eq!(socket.welcome["broadcast_offset"], 3);
    let subscribe = json!({"action": "subscribe", "event_types": ["**"], "after": 0, "after_broadcast": 0});
    assert_eq!(socket.ask(subscribe).await["type"], "subscribed");
    let (events, resumed) = socket.replayed().await;
    let mut ids: Vec<_> = events.iter().map(|event| event["entity_id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["b1", "b3", "u1"], "b2 is of another app");
    assert_eq!((&resumed["broadcast_offset"], &resumed["after_broadcast"]), (&json!(3), &json!(0)));
    let mut socket = app.connect("alice").await;
    socket.send(json!({"action": "subscribe", "event_types": ["**"], "after": 0, "after_broadcast": 77})).await;
    assert_eq!(socket.frame().await["type"], "subscribed");
    let (events, resumed) = socket.replayed().await;
    assert_eq!((events.len(), &resumed["recovered"]), (0, &json!(false)), "not even the half that could be");
}

async fn a_second_pattern_replays_only_what_was_not_sent(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let publish = async |event_type: &str| {
        let mut event = App::event("alice", "x");
        event["event_type"] = json!(event_type);
        app.post(&event).await;
    };
    publish("created").await;
    publish("dismissed").await;
    let mut socket = app.connect("alice").await;
    socket.subscribe(&["notification.created"]).await;
    publish("created").await;
    publish("dismissed").await;
    assert_eq!(socket.offset().await, 3);
    let (events, resumed) = socket.resume(0).await;
    assert_eq!(offsets(&events), [1, 2, 4], "3 was sent before");
    assert_eq!(resumed["replayed"], 3);
    publish("created").await;
    assert_eq!(socket.offset().await, 5);
}

async fn a_long_replay_of_large_events_is_paced(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| config.stream.max_backlog_bytes = 163_840).await;
    let app = hub.app("a").await;
    let mut event = App::event("alice", "large");
    event["event_data"] = json!({"x": "y".repeat(60_000)});
    for _ in 0..10 {
        let events = vec![event.clone(); 15];
        let request = app.request("POST", "/events/batch").json(&json!({"events": events}));
        assert_eq!(read(request).await.status, 200);
    }
    let mut socket = app.connect("alice").await;
    let (events, _) = socket.resume(0).await;
    assert_eq!(offsets(&events), (1..=150).collect::<Vec<_>>(), "nine megabytes past a bound of 160 KiB");
}

async fn reconnecting_during_a_burst_misses_and_repeats_nothing(backend: Backend) {
    const EVENTS: u64 = 1500;
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let token = app.token("alice").await;
    let addr = hub.addr;
    let publishers: Vec<_> = (0..10)
        .map(|lane| {
            let app = app.clone();
            tokio::spawn(async move {
                for n in 0..EVENTS / 10 {
                    app.publish("alice", format!("{lane}-{n}")).await;
                }
            })
        })
        .collect();
    let readers: Vec<_> = (0..4_u64)
        .map(|reader| {
            let token = token.clone();
            tokio::spawn(async move {
                let (mut seen, mut connections) = (Vec::new(), 0);
                while seen.last() != Some(&EVENTS) {
                    connections += 1;
                    let mut socket = Socket::open(addr, &token).await.unwrap();
                    let after = seen.last().copied().unwrap_or(0);
                    socket.send(json!({"action": "subscribe", "event_types": ["**"], "after": after})).await;
                    // Reads for a while, through the replay and into live events, then drops the connection without a
                    // close frame.
                    let mut left = 20 + (connections * 37 + reader * 11) % 90;
                    while left > 0 && seen.last() != Some(&EVENTS) {
                        let frame = socket.frame().await;
                        if frame["type"] == "event" {
                            seen.push(frame["offset"].as_u64().unwrap());
                            left -= 1;
                        } else if frame["type"] == "resumed" {
                            assert_eq!(frame["recovered"], true);
                        }
                    }
                }
                (seen, connections)
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    for reader in readers {
        let (seen, connections) = reader.await.unwrap();
        assert_eq!(seen, (1..=EVENTS).collect::<Vec<_>>());
        assert!(connections > 10, "{connections} connections");
    }
}

/// What waits for the client stays in the store: the node holds a page or two of it, however long the client pauses.
async fn twenty_thousand_missed_events_reach_a_client_that_reads_slowly_and_pauses(backend: Backend) {
    const MISSED: u64 = 20_000;
    let database = Database::new(backend).await;
    let hub = HubProcess::start(&database, &[("ORIVA_HUB__LOG__EVENTS", "false")]).await;
    let app = create_app(&database, hub.addr, "a", false);
    let mut event = App::event("alice", "missed");
    event["event_data"] = json!({"text": "x".repeat(4000)});
    let batch = json!({"events": vec![event; 200]});
    for _ in 0..MISSED / 200 {
        assert_eq!(read(app.request("POST", "/events/batch").json(&batch)).await.status, 200);
    }
    let mut socket = app.connect("alice").await;
    let before = hub.rss_kib();
    socket.send(json!({"action": "subscribe", "event_types": ["**"], "after": 0})).await;
    assert_eq!(socket.frame().await["type"], "subscribed");
    let mut most = 0;
    for expected in 1..=MISSED {
        assert_eq!(socket.offset().await, expected);
        if expected == MISSED / 4 {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        if expected % 500 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            most = most.max(hub.rss_kib().saturating_sub(before));
        }
    }
    let resumed = socket.frame().await;
    assert_eq!((&resumed["type"], &resumed["replayed"]), (&json!("resumed"), &json!(MISSED)));
    assert!(most < 24 * 1024, "{most} KiB more for a replay of 80 MiB");
}
