//! A Redis that answers and does not count: rights that are missing, no memory, nodes on different databases.

use crate::harness::{
    Backend, Database, HubProcess, RedisServer, Refused, Socket, callers::send, eventually, process::create_app,
};

/// The status and failing part of `/readyz`.
async fn readiness(node: &HubProcess) -> (String, String) {
    let answer = send(node.addr, "GET", "/readyz", None, &[], None).await;
    assert_eq!(answer.status, 200, "a node stays in the balancer: {}", answer.body);
    let text = |key: &str| answer.body[key].as_str().unwrap_or("").to_owned();
    (text("status"), text("failing"))
}

async fn is_ready(node: &HubProcess) -> bool {
    readiness(node).await == ("ready".to_owned(), String::new())
}

async fn counts_alone(node: &HubProcess) -> bool {
    readiness(node).await == ("degraded".to_owned(), "counting".to_owned())
}

/// The line of docs/LOAD_BALANCING.md that makes the hub's user.
fn documented_user() -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/LOAD_BALANCING.md")).unwrap();
    let line = text.lines().map(str::trim).find(|line| line.starts_with("user hub on ")).expect("the user's line");
    line.strip_prefix("user ").unwrap().to_owned()
}

async fn with_user(user: &str) -> (RedisServer, String) {
    let user: Vec<&str> = user.split_whitespace().collect();
    let redis = RedisServer::start().await;
    assert_eq!(redis.cli(&[&["acl", "setuser"], &user[..]].concat()), "OK");
    let url = format!("redis://hub:PASSWORD@127.0.0.1:{}", redis.port());
    (redis, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rights_are_enough() {
    let database = Database::new(Backend::Postgres).await;
    let (redis, url) = with_user(&documented_user()).await;
    let env = [("REDIS_URL", &*url), ("ORIVA_HUB__RATE_LIMITS__ENABLED", "true")];
    let nodes = [HubProcess::start(&database, &env).await, HubProcess::start(&database, &env).await];
    let app = create_app(&database, nodes[0].addr, "a", false);
    let token = app.token("alice").await;
    for node in &nodes {
        eventually("ready", async || is_ready(node).await).await;
    }
    let mut sockets = Vec::new();
    for n in 0..10 {
        sockets.push(Socket::open(nodes[n % 2].addr, &token).await.unwrap().attend());
    }
    let refused = Socket::open(nodes[1].addr, &token).await.err();
    assert_eq!(refused, Some(Refused::Http(429, "connection_limit".to_owned())));
    let seen = app.inbox("alice").ask("GET", "/users/alice/presence", None).await.body;
    assert_eq!((&seen["connections"], &seen["partial"]), (&10.into(), &serde_json::Value::Null));
    assert_eq!(app.publish("alice", 1).await, 1);
    let denied = redis.cli(&["acl", "log"]);
    assert!(denied.is_empty() || denied.contains("setinfo"), "{denied}");
    for node in &nodes {
        assert!(is_ready(node).await && !node.log().contains("NOPERM"), "{}", node.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_may_not_count_says_so() {
    let database = Database::new(Backend::Postgres).await;
    let (redis, url) = with_user(&documented_user().replace(" +time", "")).await;
    let node = HubProcess::start(&database, &[("REDIS_URL", &*url)]).await;
    eventually("degraded", async || counts_alone(&node).await).await;
    let figures = reqwest::get(format!("http://{}/metrics", node.addr)).await.unwrap().text().await.unwrap();
    assert!(figures.contains("oriva_counting_shared 0"), "{figures}");
    assert_eq!(redis.cli(&["acl", "setuser", "hub", "+time"]), "OK");
    eventually("ready", async || is_ready(&node).await).await;
    let log = node.log();
    assert_eq!(log.matches("limits and presence are counted by this node alone").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_memory_counts_nothing() {
    let database = Database::new(Backend::Postgres).await;
    let redis = RedisServer::start().await;
    let node = HubProcess::start(&database, &[("REDIS_URL", &redis.url())]).await;
    eventually("ready", async || is_ready(&node).await).await;
    redis.cli(&["config", "set", "maxmemory", "1"]);
    eventually("degraded", async || counts_alone(&node).await).await;
    redis.cli(&["config", "set", "maxmemory", "0"]);
    eventually("ready", async || is_ready(&node).await).await;
}

/// Messages go through all databases of a server, counts do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_on_different_databases_of_a_redis_are_degraded() {
    let database = Database::new(Backend::Postgres).await;
    let redis = RedisServer::start().await;
    let url = |number: u8| format!("{}/{number}", redis.url());
    let one = HubProcess::start(&database, &[("REDIS_URL", &url(0))]).await;
    eventually("ready alone", async || is_ready(&one).await).await;
    let two = HubProcess::start(&database, &[("REDIS_URL", &url(1))]).await;
    for node in [&one, &two] {
        eventually("degraded", async || counts_alone(node).await).await;
        assert!(node.log().contains("use the same database of one Redis"), "{}", node.log());
    }
    two.kill();
    eventually("ready alone", async || is_ready(&one).await).await;
}

/// A node that has been up for longer than two leases takes another name after a lost connection. What it held under the one
/// before does not count twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_to_redis_doubles_no_count() {
    let database = Database::new(Backend::Postgres).await;
    let redis = RedisServer::start().await;
    let node = HubProcess::start(&database, &[("REDIS_URL", &redis.url())]).await;
    let app = create_app(&database, node.addr, "a", false);
    let token = app.token("alice").await;
    let mut sockets = Vec::new();
    for _ in 0..6 {
        sockets.push(Socket::open(node.addr, &token).await.unwrap().attend());
    }
    tokio::time::sleep(std::time::Duration::from_secs(22)).await;
    let written = || node.log().matches("connection counts written to redis").count();
    let before = written();
    redis.cli(&["client", "kill", "type", "normal"]);
    redis.cli(&["client", "kill", "type", "pubsub"]);
    eventually("it has another name", async || written() > before && is_ready(&node).await).await;
    let names = redis.cli(&["zcard", redis.cli(&["keys", "{hub:*nodes"]).trim()]);
    assert_eq!(names, "1", "the earlier name is struck");
    for _ in 6..10 {
        sockets.push(Socket::open(node.addr, &token).await.expect("a place").attend());
    }
}
