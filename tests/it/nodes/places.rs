//! Connection limits, presence, rate limits and statistics over all nodes.

use serde_json::json;

use super::Nodes;
use crate::harness::{Attended, Refused, Socket, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_eleventh_connection_is_refused_whichever_node_it_asks() {
    let hub = Nodes::start(3).await;
    let token = hub.app.token("alice").await;
    let mut sockets = Vec::new();
    for n in 0..10 {
        sockets.push(Socket::open(hub.nodes[n % 3].addr, &token).await.expect("welcomed").attend());
    }
    for node in &hub.nodes {
        let eleventh = Socket::open(node.addr, &token).await.err();
        assert_eq!(eleventh, Some(Refused::Http(429, "connection_limit".to_owned())));
        let eleventh = Socket::open_v1(node.addr, &token).await.err();
        assert!(matches!(eleventh, Some(Refused::Closed(4029, _))), "{eleventh:?}");
    }
    // When one closes on one node, one may open on another, and only one.
    sockets.swap_remove(0).close().await;
    eventually("the place is free", async || match Socket::open(hub.nodes[1].addr, &token).await {
        Ok(socket) => {
            sockets.push(socket.attend());
            true
        }
        Err(_) => false,
    })
    .await;
    assert!(Socket::open(hub.nodes[2].addr, &token).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_at_once_over_three_nodes_get_ten_places() {
    let hub = Nodes::start(3).await;
    let token = hub.app.token("alice").await;
    let attempts: Vec<_> = (0..40)
        .map(|n| {
            let (addr, token) = (hub.nodes[n % 3].addr, token.clone());
            tokio::spawn(async move { Socket::open(addr, &token).await.ok().map(Socket::attend) })
        })
        .collect();
    let mut sockets = Vec::new();
    for attempt in attempts {
        sockets.extend(attempt.await.unwrap());
    }
    assert_eq!(sockets.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_its_node_comes_back_at_once_and_nobody_holds_eleven() {
    let mut hub = Nodes::start(2).await;
    let token = hub.app.token("alice").await;
    let mut sockets = Vec::new();
    for n in 0..10 {
        sockets.push(Socket::open(hub.nodes[n % 2].addr, &token).await.expect("welcomed").attend());
    }
    hub.nodes.remove(1).kill();
    sockets.retain(Attended::is_open);
    // Clients that wait as the hub says: nobody was refused, so nobody stays away.
    let addr = hub.nodes[0].addr;
    let coming: Vec<_> = (0..5)
        .map(|_| {
            let token = token.clone();
            tokio::spawn(async move { Socket::open(addr, &token).await.expect("back without a refusal").attend() })
        })
        .collect();
    for back in coming {
        sockets.push(back.await.unwrap());
    }
    assert!(Socket::open(addr, &token).await.is_err(), "the eleventh");
    let seen = hub.app.at(addr).inbox("alice").ask("GET", "/users/alice/presence", None).await.body;
    assert!(seen["connections"].as_u64().unwrap() >= 10, "{seen}");
    sockets.retain(Attended::is_open);
    assert_eq!(sockets.len(), 10, "who answers keeps its connection");
}

/// Ten peers vanish without a word: their sockets take what is sent and answer nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_vanished_without_a_word_locks_nobody_out() {
    let hub = Nodes::start(2).await;
    let token = hub.app.token("alice").await;
    let mut gone = Vec::new();
    for n in 0..10 {
        gone.push(Socket::open(hub.nodes[n % 2].addr, &token).await.expect("welcomed"));
    }
    let mut back = Vec::new();
    for n in 0..10 {
        back.push(Socket::open(hub.nodes[n % 2].addr, &token).await.expect("their places are free").attend());
    }
    assert!(Socket::open(hub.nodes[0].addr, &token).await.is_err(), "the eleventh");
    for mut socket in gone {
        assert_eq!(socket.closed().await.0, 4010);
    }
    assert!(back.iter().all(Attended::is_open));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_are_right_again_after_redis_lost_them() {
    let mut hub = Nodes::start(2).await;
    let token = hub.app.token("alice").await;
    let mut sockets = Vec::new();
    for n in 0..9 {
        sockets.push(Socket::open(hub.nodes[n % 2].addr, &token).await.expect("welcomed").attend());
    }
    hub.redis.kill();
    hub.redis.start_again().await;
    let whole_number = json!({"online": true, "connections": 9});
    let inbox = hub.app.inbox("alice");
    eventually("all nine are known again", async || {
        inbox.ask("GET", "/users/alice/presence", None).await.body == whole_number
    })
    .await;
    sockets.push(Socket::open(hub.nodes[0].addr, &token).await.expect("the tenth").attend());
    assert!(Socket::open(hub.nodes[1].addr, &token).await.is_err(), "the eleventh");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_is_seen_from_every_node_and_within_ones_own_reach() {
    let hub = Nodes::start(2).await;
    let (a, core) = (hub.app.clone(), hub.make_app("core", true));
    let b = hub.make_app("b", false);
    let seen = async |app: &crate::harness::App, user: &str| {
        let mut answers = Vec::new();
        for node in &hub.nodes {
            let inbox = app.at(node.addr).inbox(user);
            answers.push(inbox.ask("GET", &format!("/users/{user}/presence"), None).await.body);
        }
        assert_eq!(answers[0], answers[1]);
        answers.swap_remove(0)
    };
    assert_eq!(seen(&core, "alice").await, json!({"online": false, "connections": 0}));
    let mut sockets = vec![Socket::open(hub.nodes[0].addr, &a.token("alice").await).await.unwrap()];
    sockets.push(Socket::open(hub.nodes[1].addr, &a.token("alice").await).await.unwrap());
    sockets.push(Socket::open(hub.nodes[1].addr, &core.token("bob").await).await.unwrap());
    // An app sees the connections that get its events: its own users', and those of platform apps.
    assert_eq!(seen(&core, "alice").await, json!({"online": true, "connections": 2}));
    assert_eq!(seen(&a, "alice").await, json!({"online": true, "connections": 2}));
    assert_eq!(seen(&b, "alice").await, json!({"online": false, "connections": 0}));
    assert_eq!(seen(&b, "bob").await, json!({"online": true, "connections": 1}));
    sockets.push(Socket::open(hub.nodes[0].addr, &a.key).await.unwrap());
    let expected = json!({
        "nodes": 2, "connections": 4, "users_online": 2, "deliveries_pending": 0, "bus": "connected"
    });
    eventually("every node has the same figures", async || {
        let mut same = true;
        for node in &hub.nodes {
            same &= hub.admin_at(node.addr, "GET", "/api/v1/admin/stats", None).await.body == expected;
        }
        same
    })
    .await;
    sockets.swap_remove(0).close().await;
    eventually("the one that went is gone", async || seen(&a, "alice").await["connections"] == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_publishes_over_two_nodes_at_a_limit_of_thirty_give_thirty() {
    let env = [("ORIVA_HUB__RATE_LIMITS__ENABLED", "true"), ("ORIVA_HUB__RATE_LIMITS__PUBLISH__LIMIT", "30")];
    let hub = Nodes::start_with(2, &env).await;
    let all: Vec<_> = (0..40)
        .map(|n| {
            let app = hub.app_at(n % 2);
            tokio::spawn(async move { app.post(&crate::harness::App::event("alice", n)).await })
        })
        .collect();
    let mut answers = Vec::new();
    for answer in all {
        answers.push(answer.await.unwrap());
    }
    let passed: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(passed.len(), 30);
    let mut remaining: Vec<u32> = passed.iter().map(|a| a.header("x-ratelimit-remaining").parse().unwrap()).collect();
    remaining.sort_unstable();
    assert_eq!(remaining, (0..30).collect::<Vec<_>>());
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!((refused.status, refused.code()), (429, "rate_limited"));
        assert_eq!(refused.header("x-ratelimit-remaining"), "0");
        assert!(!refused.header("retry-after").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_node_counts_by_itself() {
    let env = [("ORIVA_HUB__RATE_LIMITS__ENABLED", "true"), ("ORIVA_HUB__RATE_LIMITS__PUBLISH__LIMIT", "5")];
    let mut hub = Nodes::start_with(2, &env).await;
    let token = hub.app.token("alice").await;
    hub.redis.kill();
    for node in 0..2 {
        let mut passed = 0;
        for n in 0..7 {
            passed += usize::from(hub.app_at(node).post(&crate::harness::App::event("alice", n)).await.status == 200);
        }
        assert_eq!(passed, 5, "node {node}");
        let mut sockets = Vec::new();
        while let Ok(socket) = Socket::open(hub.nodes[node].addr, &token).await {
            sockets.push(socket.attend());
        }
        assert_eq!(sockets.len(), 10);
        let ready = crate::harness::callers::send(hub.nodes[node].addr, "GET", "/readyz", None, &[], None).await;
        assert_eq!((ready.status, &ready.body["status"]), (200, &json!("degraded")));
    }
}
