//! Two nodes with one PostgreSQL, as real processes.

use serde_json::{Value, json};

use crate::harness::{App, Backend, Database, HubProcess, Refused, Socket, eventually, process::create_app};

/// Two nodes and an app.
async fn two_nodes() -> (Database, [HubProcess; 2], App) {
    let database = Database::new(Backend::Postgres).await;
    let nodes = [HubProcess::start(&database, &[]).await, HubProcess::start(&database, &[]).await];
    let app = create_app(&database, nodes[0].addr, "a", false);
    (database, nodes, app)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_takes_reaches_the_sockets_of_the_other_in_order() {
    const EVENTS: u64 = 1000;
    let (_database, nodes, app) = two_nodes().await;
    let token = app.token("alice").await;
    let mut sockets = Vec::new();
    for node in &nodes {
        for credential in [&token, &app.key] {
            let mut socket = Socket::open(node.addr, credential).await.unwrap();
            socket.subscribe(&["**"]).await;
            sockets.push(socket);
        }
    }
    let publishers: Vec<_> = nodes
        .iter()
        .map(|node| {
            let app = app.at(node.addr);
            tokio::spawn(async move {
                for n in 0..EVENTS / 2 {
                    app.publish("alice", n).await;
                }
            })
        })
        .collect();
    for socket in &mut sockets {
        for offset in 1..=EVENTS {
            assert_eq!(socket.offset().await, offset);
        }
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    for socket in &mut sockets {
        assert!(socket.is_quiet().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dismissal_and_a_broadcast_on_one_node_are_seen_on_the_other() {
    let (_database, nodes, app) = two_nodes().await;
    let alice = app.user("alice").await;
    let there = crate::harness::callers::Inbox { addr: nodes[1].addr, ..alice.clone() };
    let mut socket = Socket::open(nodes[1].addr, &alice.credential).await.unwrap();
    socket.subscribe(&["notification.*"]).await;
    let id = app.notify(&App::notification("alice", "x")).await;
    assert_eq!(socket.frame().await["entity_id"], json!(id));
    // The other node has counted and cached the unread notifications before the change.
    assert_eq!((alice.unread().await, there.unread().await), (1, 1));
    alice.set(&id, "dismissed").await;
    assert_eq!((there.unread().await, there.counts().await["unread"].clone()), (0, json!(0)));
    assert_eq!(socket.frame().await["event_type"], "notification.dismissed");
    app.broadcast("all").await;
    assert_eq!(socket.frame().await["stream"], "broadcast");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_expiry_happens_once_however_many_nodes_look() {
    const MANY: usize = 400;
    let (_database, nodes, app) = two_nodes().await;
    let moment = chrono::Utc::now() + chrono::TimeDelta::milliseconds(1500);
    let expires_at = moment.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let notification = |n: usize| {
        let mut body = App::notification("alice", n);
        body["expires_at"] = json!(expires_at);
        body
    };
    for node in &nodes {
        let many: Vec<_> = (0..MANY / 2).map(notification).collect();
        let app = app.at(node.addr);
        let request = app.request("POST", "/notifications/batch").json(&json!({"notifications": many}));
        assert_eq!(crate::harness::callers::read(request).await.status, 200);
    }
    let total = async || app.events("?event_type=notification.expired").await.body["total"].as_u64();
    eventually("all are over", async || total().await >= Some(MANY as u64)).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(total().await, Some(MANY as u64), "each once");
}

/// A node whose clock is an hour ahead refuses every token of the other. It says what is wrong, and the other nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_wrong_clock_is_degraded() {
    let library = std::env::var("ORIVA_TEST_FAKETIME").expect("ORIVA_TEST_FAKETIME: use ./scripts/test");
    let database = Database::new(Backend::Postgres).await;
    let right = HubProcess::start(&database, &[]).await;
    let wrong = HubProcess::start(&database, &[("LD_PRELOAD", &library), ("FAKETIME", "+1h")]).await;
    let ready = async |node: &HubProcess| {
        let answer = reqwest::get(format!("http://{}/readyz", node.addr)).await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let degraded = (200, json!({"status": "degraded", "failing": "clock"}));
    eventually("it is noticed", async || ready(&wrong).await == degraded).await;
    eventually("it is said", async || wrong.log().contains("clock is not the database's")).await;
    let token = create_app(&database, right.addr, "a", false).token("alice").await;
    assert_eq!(Socket::open(wrong.addr, &token).await.err(), Some(Refused::Http(401, "token_expired".to_owned())));
    assert!(Socket::open(right.addr, &token).await.is_ok());
    assert_eq!(ready(&right).await.1["failing"], Value::Null);
}
