//! The stream over real sockets (contract §5; seed rows T004, T024, T027, T036).

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use oriva_hub_actors::model::{StreamKey, UserId};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    harness::{App, Backend, Refused, Socket, TestHub, eventually},
    on_both_stores,
};

on_both_stores!(
    a_published_event_arrives_on_the_users_and_the_apps_sockets,
    all_four_ways_to_authenticate_work,
    refusals_come_before_the_upgrade_or_as_close_codes,
    patterns_decide_what_is_sent,
    mistakes_are_answered_and_survived,
    protocol_violations_close_with_their_code,
    the_eleventh_connection_is_refused_and_a_closed_one_frees_its_place,
    an_apps_key_opens_a_users_stream_by_the_address,
    a_parameter_that_the_address_does_not_have_is_refused_by_name,
    welcome_comes_before_everything_else,
    scopes_and_broadcasts_reach_whom_they_are_for,
    a_token_that_runs_out_closes_its_socket_unless_refreshed,
    a_silent_socket_is_closed_and_a_living_one_kept,
    five_hundred_concurrent_publishes_arrive_in_order,
    a_panic_in_a_session_ends_its_sockets_alone,
    a_stopping_hub_closes_sockets_with_1001,
);

async fn a_published_event_arrives_on_the_users_and_the_apps_sockets(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("work-buddy").await;
    let (mut phone, mut laptop, mut server, mut bob) =
        (app.connect("alice").await, app.connect("alice").await, app.connect_app().await, app.connect("bob").await);
    assert_eq!((&phone.welcome["user_id"], &phone.welcome["offset"]), (&json!("alice"), &json!(0)));
    assert_eq!((&server.welcome["user_id"], &server.welcome["app_id"]), (&Value::Null, &json!("work-buddy")));
    assert_eq!(phone.welcome["heartbeat_interval"], 30);
    assert!(!phone.welcome["expires_at"].is_null() && server.welcome["expires_at"].is_null());
    for socket in [&mut phone, &mut laptop, &mut server, &mut bob] {
        socket.subscribe(&["**"]).await;
    }
    app.publish("bob", "b-1").await;
    app.publish("alice", "a-1").await;
    for (socket, stream, offset) in [(&mut phone, "user", 1), (&mut laptop, "user", 1)] {
        let frame = socket.frame().await;
        assert_eq!((&frame["type"], &frame["stream"]), (&json!("event"), &json!(stream)));
        assert_eq!((&frame["offset"], &frame["entity_id"]), (&json!(offset), &json!("a-1")));
        assert_eq!(frame["event_type"], "notification.created", "full on sockets");
        assert_eq!(frame["event_data"], json!({"n": 1}));
    }
    assert_eq!(server.offset().await, 1);
    let frame = server.frame().await;
    assert_eq!((&frame["stream"], &frame["offset"], &frame["user_id"]), (&json!("app"), &json!(2), &json!("alice")));
    assert_eq!(bob.offset().await, 1);
    assert!(bob.is_quiet().await);
}

async fn all_four_ways_to_authenticate_work(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let token = app.token("alice").await;
    for query in [format!("?token={token}"), format!("?auth={token}"), format!("?token={token}&app_id=a")] {
        Socket::open_with(hub.addr, &query, &[]).await.unwrap();
    }
    let socket = Socket::open(hub.addr, &token).await.unwrap();
    assert_eq!(socket.protocol, None);
    let socket = Socket::open_v1(hub.addr, &token).await.unwrap();
    assert_eq!(socket.protocol.as_deref(), Some("oriva.v1"));
    let socket = Socket::open_with(hub.addr, &format!("?token={}", app.key), &[]).await.unwrap();
    assert_eq!(socket.welcome["app_id"], "a");
}

async fn refusals_come_before_the_upgrade_or_as_close_codes(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, _other) = (hub.app("a").await, hub.app("b").await);
    let token = app.token("alice").await;
    let expired = app.token_for("alice", 1).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let admin = crate::harness::hub::ADMIN_KEY;
    let open = async |query: String, headers: &[(&str, &str)]| {
        Socket::open_with(hub.addr, &query, headers).await.err().unwrap()
    };
    for (query, status, code, close) in [
        (String::new(), 401, "unauthenticated", 4001),
        ("?token=nonsense".to_owned(), 401, "unauthenticated", 4001),
        (format!("?token={expired}"), 401, "token_expired", 4001),
        (format!("?token={token}&app_id=b"), 403, "forbidden", 4003),
        (format!("?token={token}&app_id=none"), 403, "forbidden", 4003),
        (format!("?token={}", admin.replace(' ', "%20")), 403, "forbidden", 4003),
    ] {
        assert_eq!(open(query.clone(), &[]).await, Refused::Http(status, code.to_owned()), "{query}");
        let as_browser = open(query.clone(), &[("sec-websocket-protocol", "oriva.v1")]).await;
        assert!(
            matches!(&as_browser, Refused::Closed(code, reason) if *code == close && !reason.is_empty()),
            "{as_browser:?}"
        );
    }
    let wrong_version = open(format!("?token={token}"), &[("sec-websocket-version", "8")]).await;
    assert!(matches!(wrong_version, Refused::Http(400, _)), "{wrong_version:?}");
    let mut request = vec![("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-version", "8")];
    request.push(("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="));
    let path = format!("/api/v1/events/stream?token={token}");
    let answer = crate::harness::callers::send(hub.addr, "GET", &path, None, &request, None).await;
    assert_eq!((answer.status, answer.header("sec-websocket-version")), (400, "13"), "{}", answer.body);
    let elsewhere = crate::harness::callers::client()
        .get(format!("http://{}/healthz", hub.addr))
        .header("connection", "upgrade")
        .header("upgrade", "h2c")
        .send()
        .await
        .unwrap();
    assert_eq!(elsewhere.status(), 200, "an upgrade to something else is an ordinary request");
}

async fn patterns_decide_what_is_sent(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let mut socket = app.connect("alice").await;
    app.publish("alice", "before").await;
    assert!(socket.is_quiet().await, "nothing without a subscription");
    let answer = socket.ask(json!({"action": "subscribe", "event_types": ["session.*", "*.updated"], "id": 7})).await;
    assert_eq!((&answer["event_types"], &answer["id"]), (&json!(["session.*", "*.updated"]), &json!(7)));
    let publish = async |category: &str, event_type: &str| {
        let mut event = App::event("alice", event_type);
        event["event_category"] = json!(category);
        event["event_type"] = json!(event_type);
        assert_eq!(app.post(&event).await.status, 200);
    };
    publish("notification", "created").await;
    publish("session", "started").await;
    publish("user", "updated").await;
    publish("user", "updated.late").await;
    assert_eq!(socket.offset().await, 3);
    assert_eq!(socket.offset().await, 4);
    let answer = socket.ask(json!({"action": "unsubscribe", "event_types": ["session.*", "never.held"]})).await;
    assert_eq!((&answer["type"], &answer["event_types"]), (&json!("unsubscribed"), &json!(["*.updated"])));
    publish("session", "ended").await;
    assert!(socket.is_quiet().await);
    let many: Vec<_> = (0..100).map(|n| format!("user.p{n}")).collect();
    let answer = socket.ask(json!({"action": "subscribe", "event_types": many})).await;
    assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!("validation_failed")), "101 in all");
    assert_eq!(
        socket.ask(json!({"action": "subscribe", "event_types": ["*.updated"]})).await["event_types"],
        json!(["*.updated"])
    );
}

async fn mistakes_are_answered_and_survived(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let mut socket = app.connect("alice").await;
    for (text, code) in [
        ("{", "malformed_json"),
        ("[]", "validation_failed"),
        (r#"{"action":"dance","id":"x"}"#, "validation_failed"),
        (r#"{"action":"subscribe","event_types":["BAD"]}"#, "validation_failed"),
        (r#"{"action":"subscribe","event_types":["*"],"aftr":1}"#, "validation_failed"),
    ] {
        socket.inner.send(Message::text(text)).await.unwrap();
        let frame = socket.frame().await;
        assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!(code)), "{text}: {frame}");
    }
    let foreign = app.token("bob").await;
    assert_eq!(socket.ask(json!({"action": "refresh", "token": foreign})).await["code"], "forbidden");
    assert_eq!(socket.ask(json!({"action": "refresh", "token": "x"})).await["code"], "unauthenticated");
    let mut server = app.connect_app().await;
    assert_eq!(server.ask(json!({"action": "refresh", "token": foreign})).await["code"], "validation_failed");
    let answer = server.ask(json!({"action": "subscribe", "event_types": ["*"], "after_broadcast": 0})).await;
    assert_eq!(answer["code"], "validation_failed");
    let both = json!({"action": "subscribe", "event_types": ["*"], "after": 0, "after_broadcast": 7});
    assert_eq!(server.ask(both).await, json!({"type": "subscribed", "event_types": ["*"]}));
    let (_, resumed) = server.replayed().await;
    assert_eq!(resumed["recovered"], true, "{resumed}: an app's stream holds its broadcasts");
    let futile = socket.ask(json!({"action": "subscribe", "event_types": ["order.*", "notification.*"]})).await;
    assert_eq!((&futile["type"], &futile["event_types"][0]), (&json!("subscribed"), &json!("order.*")));
    let warning = futile["warning"].as_str().unwrap();
    assert!(warning.starts_with("no event can match order.*: "), "{warning}");
    assert_eq!(socket.ask(json!({"action": "ping", "id": "p"})).await, json!({"type": "pong", "id": "p"}));
}

async fn protocol_violations_close_with_their_code(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let mut socket = app.connect("alice").await;
    socket.inner.send(Message::binary(vec![1, 2])).await.unwrap();
    assert_eq!(socket.closed().await.0, 1003);
    let mut socket = app.connect("alice").await;
    socket.inner.send(Message::text("x".repeat(65_537))).await.unwrap();
    assert_eq!(socket.closed().await.0, 1009);
    let mut socket = app.connect("alice").await;
    socket.inner.send(Message::text("x".repeat(65_536))).await.unwrap();
    assert_eq!(socket.frame().await["code"], "malformed_json", "at the bound it is read");
    socket.inner.send(Message::Ping(b"hi".to_vec().into())).await.unwrap();
    let Some(Ok(Message::Pong(payload))) = socket.inner.next().await else { panic!("no pong") };
    assert_eq!(&payload[..], b"hi");
    socket.close().await;
}

async fn the_eleventh_connection_is_refused_and_a_closed_one_frees_its_place(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other) = (hub.app("a").await, hub.app("b").await);
    let mut devices = Vec::new();
    for n in 0..10 {
        // A user's connections are counted together, whichever app issued the tokens.
        let device = if n % 2 == 0 { app.connect("alice").await } else { other.connect("alice").await };
        devices.push(device.attend());
    }
    let token = app.token("alice").await;
    let refused = Socket::open(hub.addr, &token).await.err().unwrap();
    assert_eq!(refused, Refused::Http(429, "connection_limit".to_owned()));
    assert!(matches!(Socket::open_v1(hub.addr, &token).await.err().unwrap(), Refused::Closed(4029, _)));
    app.connect("bob").await.close().await;
    devices.pop().unwrap().close().await;
    drop(devices.pop());
    for _ in 0..2 {
        eventually("a place is free", async || match Socket::open(hub.addr, &token).await {
            Ok(socket) => {
                devices.push(socket.attend());
                true
            }
            Err(_) => false,
        })
        .await;
    }
    assert!(Socket::open(hub.addr, &token).await.is_err());
    let mut servers = Vec::new();
    for _ in 0..10 {
        servers.push(app.connect_app().await.attend());
    }
    assert_eq!(app.try_connect_app().await.err(), Some(Refused::Http(429, "connection_limit".to_owned())));
}

/// An app's server opens the stream of one of its users, and subscribes in the address.
async fn an_apps_key_opens_a_users_stream_by_the_address(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other) = (hub.app("a").await, hub.app("b").await);
    for n in 1..=3 {
        app.publish("alice", n).await;
        app.publish("bob", n).await;
        other.publish("alice", n).await;
    }
    // Of her stream of six, the third and fifth are this app's and later than the second.
    let key = [("authorization", &*format!("Bearer {}", app.key))];
    let query = "?user_id=alice&app_id=a&event_types=notification.*&event_types=user.*&after=2";
    let mut socket = Socket::open_with(hub.addr, query, &key).await.unwrap();
    assert_eq!((&socket.welcome["user_id"], &socket.welcome["app_id"]), (&json!("alice"), &json!("a")));
    assert_eq!(socket.frame().await["event_types"], json!(["notification.*", "user.*"]));
    let (events, resumed) = socket.replayed().await;
    let offsets: Vec<_> = events.iter().map(|event| event["offset"].as_u64().unwrap()).collect();
    assert_eq!((offsets, &resumed["recovered"]), (vec![3, 5], &json!(true)));
    assert!(events.iter().all(|event| event["app_id"] == "a" && event["user_id"] == "alice"));
    other.publish("alice", "not for this app").await;
    app.publish("bob", "not of this user").await;
    app.publish("alice", "live").await;
    assert_eq!(socket.frame().await["entity_id"], "live");
    let refused = socket.ask(json!({"action": "refresh", "token": app.token("alice").await})).await;
    assert_eq!(refused["code"], "validation_failed", "a key does not run out");

    // Ten of each user, as by tokens; and the app's own ten are others.
    let mut held = vec![socket.attend()];
    for _ in 0..9 {
        held.push(Socket::open_with(hub.addr, "?user_id=alice", &key).await.unwrap().attend());
    }
    let limit = Refused::Http(429, "connection_limit".to_owned());
    assert_eq!(Socket::open_with(hub.addr, "?user_id=alice", &key).await.err(), Some(limit));
    drop((app.connect("bob").await, app.connect_app().await));

    let keys = hub.admin("GET", "/api/v1/admin/apps/a/keys", None).await.body;
    let path = format!("/api/v1/admin/keys/{}", keys["keys"][0]["key_id"].as_str().unwrap());
    let mut of_bob = Socket::open_with(hub.addr, "?user_id=bob", &key).await.unwrap();
    assert!(hub.admin("DELETE", &path, None).await.status < 300);
    assert_eq!(of_bob.closed().await.0, 4003, "the key was revoked");
}

async fn a_parameter_that_the_address_does_not_have_is_refused_by_name(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let token = app.token("alice").await;
    let ask = async |query: &str, credential: &str| {
        let mut headers = vec![("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-version", "13")];
        headers.push(("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="));
        let path = format!("/api/v1/events/stream{query}");
        crate::harness::callers::send(hub.addr, "GET", &path, Some(credential), &headers, None).await
    };
    for (query, field) in [("?since=4", "since"), ("?after=4", "event_types"), ("?event_types=A", "event_types")] {
        let answer = ask(query, &token).await;
        assert_eq!((answer.status, &answer.body["details"][0]["field"]), (400, &json!(field)), "{}", answer.body);
    }
    assert_eq!(ask("?since=4", "nobody").await.status, 401, "who is not known learns nothing");
    assert_eq!(ask("?user_id=bob", &token).await.status, 403);
    let v1 = [("sec-websocket-protocol", &*format!("oriva.v1, bearer.{token}"))];
    let refused = Socket::open_with(hub.addr, "?bogus=1", &v1).await.err().unwrap();
    assert!(matches!(refused, Refused::Closed(4400, _)), "{refused:?}");
}

/// What a page sends in `onopen` comes right behind the handshake.
async fn welcome_comes_before_everything_else(backend: Backend) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let hub = TestHub::start(backend).await;
    let token = hub.app("a").await.token("alice").await;
    let mut connection = tokio::net::TcpStream::connect(hub.addr).await.unwrap();
    let mut bytes = format!(
        "GET /api/v1/events/stream?token={token} HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes();
    for text in ["x", r#"{"action":"ping","id":1}"#, r#"{"type":"subscribe","event_types":["notification"]}"#] {
        // A text frame, masked with zeros.
        bytes.extend([0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0]);
        bytes.extend(text.as_bytes());
    }
    connection.write_all(&bytes).await.unwrap();
    let (mut received, mut buffer) = (String::new(), [0; 4096]);
    while !received.contains("subscribed") {
        let count = connection.read(&mut buffer).await.unwrap();
        assert!(count > 0, "{received}");
        received.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    let place = |what: &str| received.find(what).unwrap_or_else(|| panic!("{what} in {received}"));
    assert!(place("\"welcome\"") < place("\"error\""), "{received}");
    assert!(place("\"error\"") < place("\"pong\"") && place("\"pong\"") < place("\"subscribed\""), "{received}");
}

async fn scopes_and_broadcasts_reach_whom_they_are_for(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other, core) = (hub.app("a").await, hub.app("b").await, hub.platform_app("core").await);
    let (mut of_app, mut of_other, mut of_core) =
        (app.connect("alice").await, other.connect("alice").await, core.connect("alice").await);
    let (mut app_server, mut other_server) = (app.connect_app().await, other.connect_app().await);
    for socket in [&mut of_app, &mut of_other, &mut of_core, &mut app_server, &mut other_server] {
        socket.subscribe(&["**"]).await;
    }
    app.publish("alice", "from-a").await;
    other.publish("alice", "from-b").await;
    app.broadcast("a-to-its-users").await;
    core.broadcast("core-to-all").await;
    let seen = async |socket: &mut Socket, count: usize| {
        let mut ids = Vec::new();
        for _ in 0..count {
            let frame = socket.frame().await;
            ids.push(format!(
                "{} {} {}",
                frame["stream"].as_str().unwrap(),
                frame["offset"],
                frame["entity_id"].as_str().unwrap()
            ));
        }
        ids.sort();
        assert!(socket.is_quiet().await);
        ids
    };
    assert_eq!(seen(&mut of_app, 3).await, ["broadcast 1 a-to-its-users", "broadcast 2 core-to-all", "user 1 from-a"]);
    assert_eq!(seen(&mut of_other, 2).await, ["broadcast 2 core-to-all", "user 2 from-b"]);
    assert_eq!(
        seen(&mut of_core, 4).await,
        ["broadcast 1 a-to-its-users", "broadcast 2 core-to-all", "user 1 from-a", "user 2 from-b"]
    );
    assert_eq!(seen(&mut app_server, 2).await, ["app 1 from-a", "app 2 a-to-its-users"]);
    assert_eq!(seen(&mut other_server, 1).await, ["app 1 from-b"]);
}

async fn a_token_that_runs_out_closes_its_socket_unless_refreshed(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let short = app.token_for("alice", 3).await;
    let (mut left, mut kept) =
        (Socket::open(hub.addr, &short).await.unwrap(), Socket::open(hub.addr, &short).await.unwrap());
    let answer = kept.ask(json!({"action": "refresh", "token": app.token("alice").await, "id": 1})).await;
    assert_eq!((&answer["type"], &answer["id"]), (&json!("refreshed"), &json!(1)));
    assert!(answer["expires_at"].as_str() > kept.welcome["expires_at"].as_str());
    assert_eq!(left.closed().await.0, 4001);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(kept.is_quiet().await);
}

async fn a_silent_socket_is_closed_and_a_living_one_kept(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| config.stream.heartbeat_seconds = 1).await;
    let app = hub.app("a").await;
    let (mut living, mut silent) = (app.connect("alice").await, app.connect("alice").await);
    // The client library answers pings while it is polled, and not otherwise.
    let poll = async { tokio::time::timeout(Duration::from_secs(4), living.next()).await };
    assert!(poll.await.is_err(), "the living one hears nothing but pings");
    assert!(living.is_quiet().await);
    assert_eq!(silent.closed().await.0, 4010);
}

async fn five_hundred_concurrent_publishes_arrive_in_order(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let mut socket = app.connect("alice").await;
    socket.subscribe(&["**"]).await;
    let publishers = (0..500).map(|n| {
        let app = app.clone();
        tokio::spawn(async move { app.publish("alice", n).await })
    });
    let reader = tokio::spawn(async move {
        let mut offsets = Vec::new();
        for _ in 0..500 {
            offsets.push(socket.offset().await);
        }
        assert!(socket.is_quiet().await);
        offsets
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    assert_eq!(reader.await.unwrap(), (1..=500).collect::<Vec<_>>());
}

async fn a_panic_in_a_session_ends_its_sockets_alone(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let (mut alice, mut bob) = (app.connect("alice").await, app.connect("bob").await);
    bob.subscribe(&["**"]).await;
    hub.hub.realtime().panic_session(StreamKey::User(UserId::parse("alice").unwrap()));
    assert_eq!(alice.closed().await.0, 1011);
    app.publish("bob", "1").await;
    assert_eq!(bob.offset().await, 1);
    let mut again = app.connect("alice").await;
    again.subscribe(&["**"]).await;
    app.publish("alice", "2").await;
    assert_eq!(again.offset().await, 1);
    eventually("the registry forgets the session", async || {
        let state = hub.hub.realtime().observe().await;
        (state.sessions, state.connections) == (2, 2)
    })
    .await;
}

async fn a_stopping_hub_closes_sockets_with_1001(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let mut sockets = Vec::new();
    for n in 0..20 {
        let mut socket = app.connect(&format!("user-{n}")).await;
        socket.subscribe(&["**"]).await;
        app.publish(&format!("user-{n}"), n).await;
        sockets.push(socket);
    }
    let stopping = tokio::spawn(hub.stop());
    for socket in &mut sockets {
        assert_eq!(socket.offset().await, 1, "what was published arrives before the close");
        assert_eq!(socket.closed().await.0, 1001);
    }
    stopping.await.unwrap();
}

/// A socket over TLS, which the hub itself terminates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_with_a_certificate_speaks_tls() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let hub = TestHub::start_with(Backend::Sqlite, |config| {
        config.server.tls.cert = Some(cert);
        config.server.tls.key = Some(key);
    })
    .await;
    let store = hub.database.store().await;
    let apps = oriva_hub::hub::Apps::new(store);
    let app = oriva_hub::store::NewApp {
        id: oriva_hub_actors::model::AppId::parse("a").unwrap(),
        name: "A".to_owned(),
        icon_url: None,
        is_platform: false,
        limits: Default::default(),
    };
    let audit = oriva_hub::store::Audit { actor: "test".to_owned(), ip: None };
    let (_, secret) = apps.create(app, &audit).await.unwrap();

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let url = format!("wss://localhost:{}/api/v1/events/stream?token={}", hub.addr.port(), secret.expose());
    let connector = tokio_tungstenite::Connector::Rustls(std::sync::Arc::new(client));
    let tcp = tokio::net::TcpStream::connect(hub.addr).await.unwrap();
    let (mut socket, _) =
        tokio_tungstenite::client_async_tls_with_config(url, tcp, None, Some(connector)).await.unwrap();
    let Some(Ok(Message::Text(welcome))) = socket.next().await else { panic!("no welcome") };
    assert!(welcome.contains("welcome"), "{welcome}");
    socket.send(Message::text(r#"{"action":"ping"}"#)).await.unwrap();
    let Some(Ok(Message::Text(pong))) = socket.next().await else { panic!("no pong") };
    assert_eq!(pong.as_str(), r#"{"type":"pong"}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_offers_compression_gets_long_events_compressed_and_may_compress_itself() {
    let hub = TestHub::start(Backend::Sqlite).await;
    let app = hub.app("work-buddy").await;
    let mut raw = RawSocket::open(&hub, &app.key, "permessage-deflate; client_max_window_bits").await;
    assert!(raw.response.contains("permessage-deflate; server_no_context_takeover; client_no_context_takeover"));
    assert_eq!(raw.frame().await.0, 0x81, "a welcome is short, and sent as it is");

    let subscribe = br#"{"action":"subscribe","event_types":["**"]}"#;
    let mut payload = Vec::with_capacity(200);
    let mut compress = flate2::Compress::new(flate2::Compression::fast(), false);
    compress.compress_vec(subscribe, &mut payload, flate2::FlushCompress::Sync).unwrap();
    payload.truncate(payload.len() - 4);
    raw.send(0xC1, &payload).await;
    assert!(String::from_utf8(raw.frame().await.1).unwrap().contains("subscribed"));

    app.publish("alice", "short").await;
    assert_eq!(raw.frame().await.0, 0x81);
    let mut long = App::event("alice", "long");
    long["event_data"] = json!({"text": "again and again ".repeat(500)});
    assert_eq!(app.post(&long).await.status, 200);
    let (first, mut payload) = raw.frame().await;
    assert_eq!(first, 0xC1);
    assert!(payload.len() < 1000, "{} bytes of 8000", payload.len());
    payload.extend_from_slice(&[0, 0, 0xFF, 0xFF]);
    let mut json = Vec::with_capacity(10_000);
    let mut inflate = flate2::Decompress::new(false);
    inflate.decompress_vec(&payload, &mut json, flate2::FlushDecompress::Sync).unwrap();
    let event: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(event["event_data"], long["event_data"]);

    // A compression bomb: ten megabytes in ten kilobytes.
    let mut bomb = Vec::with_capacity(100_000);
    compress.reset();
    compress.compress_vec(&vec![b' '; 10_000_000], &mut bomb, flate2::FlushCompress::Sync).unwrap();
    raw.send(0xC1, &bomb).await;
    let (first, reason) = raw.frame().await;
    assert_eq!((first, &reason[..2]), (0x88, &1009_u16.to_be_bytes()[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_can_be_turned_off() {
    let hub = TestHub::start_with(Backend::Sqlite, |config| config.stream.compression = false).await;
    let app = hub.app("work-buddy").await;
    let raw = RawSocket::open(&hub, &app.key, "permessage-deflate").await;
    assert!(!raw.response.contains("permessage-deflate"), "{}", raw.response);
}

/// A socket at the level of bytes, because tungstenite has no compression.
struct RawSocket {
    tcp: tokio::net::TcpStream,
    response: String,
}

impl RawSocket {
    async fn open(hub: &TestHub, token: &str, extensions: &str) -> Self {
        let mut tcp = tokio::net::TcpStream::connect(hub.addr).await.unwrap();
        let request = format!(
            "GET /api/v1/events/stream?token={token} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Extensions: {extensions}\r\n\r\n",
            hub.addr
        );
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            response.push(tcp.read_u8().await.unwrap());
        }
        let response = String::from_utf8(response).unwrap();
        assert!(response.starts_with("HTTP/1.1 101"), "{response}");
        Self { tcp, response }
    }

    /// Sends a frame under a mask of zeros.
    async fn send(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(0x80 | length as u8),
            length => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        self.tcp.write_all(&frame).await.unwrap();
    }

    /// The next frame: its first byte and its payload.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let first = self.tcp.read_u8().await.unwrap();
        let length = match self.tcp.read_u8().await.unwrap() {
            126 => usize::from(self.tcp.read_u16().await.unwrap()),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.tcp.read_exact(&mut payload).await.unwrap();
        (first, payload)
    }
}
