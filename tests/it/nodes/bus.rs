//! Nodes hear of each other's commits over Redis.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Nodes;
use crate::harness::{HubProcess, RedisServer, Socket, callers::Inbox, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_events_over_three_nodes_reach_a_socket_of_each_in_order() {
    const EVENTS: u64 = 10_000;
    let hub = Nodes::start(3).await;
    let token = hub.app.token("alice").await;
    let mut sockets = hub.sockets(&token).await;
    sockets.extend(hub.sockets(&hub.app.key).await);
    let publishers: Vec<_> = (0..12)
        .map(|lane| {
            let app = hub.app_at(lane as usize % 3);
            tokio::spawn(async move {
                for n in (lane..EVENTS).step_by(12) {
                    app.publish("alice", n).await;
                }
            })
        })
        .collect();
    let readers: Vec<_> = sockets
        .into_iter()
        .map(|mut socket| {
            tokio::spawn(async move {
                for offset in 1..=EVENTS {
                    assert_eq!(socket.offset().await, offset);
                }
                assert!(socket.is_quiet().await);
            })
        })
        .collect();
    for task in publishers.into_iter().chain(readers) {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_comes_over_the_bus_and_not_by_looking() {
    let hub = Nodes::start(2).await;
    let token = hub.app.token("alice").await;
    let mut there = Socket::open(hub.nodes[1].addr, &token).await.unwrap();
    there.subscribe(&["**"]).await;
    // Registries still resync for a while after the bus has connected.
    tokio::time::sleep(Duration::from_millis(4500)).await;
    let mut took: Vec<Duration> = Vec::new();
    for n in 0..40 {
        let begun = Instant::now();
        hub.app.publish("alice", n).await;
        there.offset().await;
        took.push(begun.elapsed());
    }
    took.sort();
    // A resync takes up to 0.9 s, so forty events in a row below that came over the bus.
    assert!(took[20] < Duration::from_millis(400), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broadcasts_and_odd_names_cross_the_bus() {
    let hub = Nodes::start(2).await;
    for user in ["a:b", "{x}", "ünï-é", "\"quoted\\", "*", "a+b@x.com", "a/b", "a%2Bb", "100%"] {
        let path: String = user.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let token = hub.app.token(&path).await;
        let mut there = Socket::open(hub.nodes[1].addr, &token).await.unwrap();
        there.subscribe(&["**"]).await;
        hub.app.publish(user, "x").await;
        let frame = there.frame().await;
        assert_eq!((frame["user_id"].as_str(), frame["stream"].as_str()), (Some(user), Some("user")));
        hub.app.broadcast("all").await;
        assert_eq!(there.frame().await["stream"], "broadcast");
        // The user is found under the spelling in the token.
        for credential in [&token, &hub.app.key] {
            let inbox = Inbox { user: path.clone(), credential: credential.clone(), ..hub.app.inbox("") };
            let seen = inbox.ask("GET", &format!("/users/{path}/presence"), None).await.body;
            assert_eq!(seen, json!({"online": true, "connections": 1}), "{user}");
            hub.app.notify(&crate::harness::App::notification(user, "x")).await;
            assert!(inbox.unread().await >= 1, "{user}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_and_a_disabled_app_close_sockets_of_every_node() {
    let hub = Nodes::start(2).await;
    let mut by_key = Socket::open(hub.nodes[1].addr, &hub.app.key).await.unwrap();
    let keys = hub.admin("GET", "/api/v1/admin/apps/a/keys", None).await.body;
    let key = keys["keys"][0]["key_id"].as_str().unwrap().to_owned();
    let token = hub.app.token("alice").await;
    let mut by_token = Socket::open(hub.nodes[1].addr, &token).await.unwrap();
    assert_eq!(hub.admin("DELETE", &format!("/api/v1/admin/keys/{key}"), None).await.status, 200);
    assert_eq!(by_key.closed().await.0, 4003);
    assert_eq!(hub.admin("PATCH", "/api/v1/admin/apps/a", Some(json!({"is_active": false}))).await.status, 200);
    assert_eq!(by_token.closed().await.0, 4003);
    let again = Socket::open(hub.nodes[1].addr, &token).await;
    assert!(matches!(again, Err(crate::harness::Refused::Http(403, _))));
}

/// Sockets are compared with what authentication would give now, on every node, whatever the change was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_would_not_be_opened_so_again_are_closed_on_every_node() {
    let hub = Nodes::start(2).await;
    let at = hub.nodes[1].addr;
    let (core, gone) = (hub.make_app("core", true), hub.make_app("gone", false));
    let mut of_core = Socket::open(at, &core.token("alice").await).await.unwrap();
    let mut of_gone = Socket::open(at, &gone.token("alice").await).await.unwrap();
    let mut gone_itself = Socket::open(at, &gone.key).await.unwrap();
    let mut untouched = Socket::open(at, &hub.app.token("alice").await).await.unwrap();

    // Its users no longer see all apps.
    assert_eq!(hub.admin("PATCH", "/api/v1/admin/apps/core", Some(json!({"is_platform": false}))).await.status, 200);
    assert_eq!(of_core.closed().await.0, 4001, "the same token opens another view");
    assert_eq!(hub.admin("DELETE", "/api/v1/admin/apps/gone", None).await.status, 204);
    assert_eq!(of_gone.closed().await.0, 4003);
    assert_eq!(gone_itself.closed().await.0, 4003);
    assert!(untouched.is_quiet().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_with_a_password_and_one_with_tls_serve_as_well() {
    for (args, scheme) in [(vec!["--requirepass", "s3cret:/@"], "redis"), (Vec::new(), "rediss")] {
        let is_tls = scheme == "rediss";
        let database = crate::harness::Database::new(crate::harness::Backend::Postgres).await;
        let (redis, url, trusted) = if is_tls {
            let redis = RedisServer::start_tls().await;
            let url = format!("rediss://localhost:{}", redis.tls_port());
            let trusted = redis.folder().join("ca.pem").display().to_string();
            (redis, url, trusted)
        } else {
            let redis = RedisServer::start_with(&args).await;
            let url = format!("redis://:s3cret%3A%2F%40@127.0.0.1:{}", redis.port());
            (redis, url, String::new())
        };
        let env = [("REDIS_URL", &*url), ("ORIVA_HUB__REDIS__CA_FILE", &*trusted)];
        let env = if is_tls { &env[..] } else { &env[..1] };
        let nodes = [HubProcess::start(&database, env).await, HubProcess::start(&database, env).await];
        let app = crate::harness::process::create_app(&database, nodes[0].addr, "a", false);
        eventually("both hear themselves", async || {
            let mut connected = true;
            for node in &nodes {
                let answer = crate::harness::callers::send(node.addr, "GET", "/readyz", None, &[], None).await;
                connected &= answer.body["status"] == "ready";
            }
            connected
        })
        .await;
        let token = app.token("alice").await;
        let mut there = Socket::open(nodes[1].addr, &token).await.unwrap();
        there.subscribe(&["**"]).await;
        app.publish("alice", "x").await;
        assert_eq!(there.offset().await, 1);
        for node in &nodes {
            assert!(!node.log().contains("s3cret"), "a password in the log");
        }
        drop(redis);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_others_do_to_redis_no_socket_misses_anything() {
    let hub = Nodes::start(2).await;
    let token = hub.app.token("alice").await;
    let mut sockets = hub.sockets(&token).await;
    let channel = |name: &str| {
        let channels = hub.redis.cli(&["pubsub", "channels", "hub:*"]);
        let found = channels.lines().find(|channel| channel.ends_with(name)).map(str::to_owned);
        found.expect("a channel")
    };
    let mut published = 0;
    for meddling in 0..7 {
        match meddling {
            0 => {
                for garbage in ["", "x", "\u{1}\u{3}", &"y".repeat(100_000)] {
                    for name in [":user:alice", ":app:a", ":broadcast", ":nodes"] {
                        if name != ":app:a" {
                            hub.redis.cli(&["publish", &channel(name), garbage]);
                        }
                    }
                }
            }
            1 => drop(hub.redis.cli(&["flushall"])),
            2 => drop(hub.redis.cli(&["client", "kill", "type", "pubsub"])),
            3 => drop(hub.redis.cli(&["client", "kill", "type", "normal"])),
            4 => drop(hub.redis.cli(&["client", "pause", "2500", "all"])),
            5 => drop(hub.redis.cli(&["script", "flush"])),
            // The keys of connection counts, and nothing else.
            _ => {
                for key in hub.redis.cli(&["keys", "{hub:*:places:*"]).lines() {
                    hub.redis.cli(&["del", key]);
                }
            }
        }
        for n in 0..20 {
            hub.app_at(n % 2).publish("alice", n).await;
        }
        for socket in &mut sockets {
            for offset in published + 1..=published + 20 {
                assert_eq!(socket.offset().await, offset, "after {meddling}");
            }
        }
        published += 20;
    }
    for socket in &mut sockets {
        assert!(socket.is_quiet().await);
    }
    eventually("places are right again", async || {
        let seen = hub.app.inbox("alice").ask("GET", "/users/alice/presence", None).await.body;
        seen == json!({"online": true, "connections": 2})
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_webhook_is_told_of_on_every_node() {
    let hub = Nodes::start_with(2, &[("ORIVA_HUB__WEBHOOKS__ALLOW_HTTP", "true")]).await;
    let receiver = crate::harness::Receiver::start().await;
    let mut there = Socket::open(hub.nodes[1].addr, &hub.app.key).await.unwrap();
    let made = hub.app.webhook(&receiver.url("/status/410"), &["**"]).await;
    hub.app.publish("alice", "x").await;
    let frame = there.frame().await;
    assert_eq!((&frame["type"], &frame["webhook_id"]), (&json!("webhook.disabled"), &made["webhook_id"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_at_another_redis_is_noticed_and_nothing_comes_late() {
    let mut hub = Nodes::start(2).await;
    let other = RedisServer::start().await;
    let url = other.url();
    hub.nodes.push(HubProcess::start(&hub.database, &[("REDIS_URL", &url)]).await);
    let bus = async |node: usize| hub.admin_at(hub.nodes[node].addr, "GET", "/api/v1/admin/stats", None).await.body;
    for node in 0..3 {
        eventually("the split is seen", async || bus(node).await["bus"] == "split").await;
        assert_eq!(bus(node).await["partial"], true);
    }
    let token = hub.app.token("alice").await;
    let mut sockets = hub.sockets(&token).await;
    for n in 1..=6 {
        hub.app_at(n % 3).publish("alice", n).await;
        let begun = Instant::now();
        for socket in &mut sockets {
            assert_eq!(socket.offset().await, n as u64);
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    hub.nodes.pop().expect("three").kill();
    for node in 0..2 {
        eventually("the others are one again", async || {
            hub.admin_at(hub.nodes[node].addr, "GET", "/api/v1/admin/stats", None).await.body["bus"] == "connected"
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_the_others_redis_says_so() {
    let hub = Nodes::start(1).await;
    let alone = HubProcess::start(&hub.database, &[]).await;
    for addr in [hub.nodes[0].addr, alone.addr] {
        eventually("the split is seen", async || {
            let answer = reqwest::get(format!("http://{addr}/readyz")).await.unwrap().json::<Value>().await.unwrap();
            answer == json!({"status": "degraded", "failing": "bus"})
        })
        .await;
    }
    assert!(alone.log().contains("do not hear each other"), "{}", alone.log());
    eventually("the other one logs it, too", async || hub.nodes[0].log().contains("do not hear each other")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_became_a_replica_is_left() {
    let hub = Nodes::start(1).await;
    let master = RedisServer::start().await;
    let state = async || hub.admin("GET", "/api/v1/admin/stats", None).await.body["bus"].clone();
    hub.redis.cli(&["replicaof", "127.0.0.1", &master.port().to_string()]);
    eventually("a replica is no bus", async || state().await == "away").await;
    hub.redis.cli(&["replicaof", "no", "one"]);
    eventually("a master is one", async || state().await == "connected").await;
}
