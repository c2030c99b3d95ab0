//! The same over a Redis cluster: channels are on different servers, and keys that one script reads are on one server.

use serde_json::json;

use crate::harness::{
    Backend, Database, HubProcess, RedisCluster, Socket, callers::send, eventually, hub::ADMIN_KEY, process::create_app,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_places_and_budgets_go_over_a_cluster() {
    const USERS: usize = 20;
    let database = Database::new(Backend::Postgres).await;
    let mut cluster = RedisCluster::start().await;
    let url = cluster.url();
    let env = [
        ("REDIS_URL", &*url),
        ("ORIVA_HUB__RATE_LIMITS__ENABLED", "true"),
        ("ORIVA_HUB__RATE_LIMITS__PUBLISH__LIMIT", "300"),
    ];
    let nodes = [HubProcess::start(&database, &env).await, HubProcess::start(&database, &env).await];
    let app = create_app(&database, nodes[0].addr, "a", false);
    for node in &nodes {
        eventually("the nodes know each other", async || {
            let stats = send(node.addr, "GET", "/api/v1/admin/stats", Some(ADMIN_KEY), &[], None).await.body;
            stats["nodes"] == 2 && stats["bus"] == "connected" && stats["partial"].is_null()
        })
        .await;
    }
    assert!(nodes[0].log().contains("sharded=true"));
    // Users whose channels are on all three servers, connected to the node that does not publish.
    let mut sockets = Vec::new();
    for user in 0..USERS {
        let token = app.token(&format!("user{user}")).await;
        let mut socket = Socket::open(nodes[1].addr, &token).await.unwrap();
        socket.subscribe(&["**"]).await;
        sockets.push(socket);
    }
    // Longer than nodes resync after the bus has connected.
    tokio::time::sleep(std::time::Duration::from_millis(4500)).await;
    for n in 1..=10 {
        for (user, socket) in sockets.iter_mut().enumerate() {
            app.publish(&format!("user{user}"), n).await;
            assert_eq!(socket.offset().await, n);
        }
    }
    let mut shards = Vec::new();
    for server in cluster.servers() {
        let channels = server.cli(&["pubsub", "shardchannels", "hub:*:user:*"]);
        shards.push(channels.lines().count());
    }
    assert_eq!(shards.iter().sum::<usize>(), USERS, "{shards:?}");
    assert!(shards.iter().all(|count| *count > 0), "{shards:?}");

    let token = app.token("alice").await;
    let mut places = Vec::new();
    for n in 0..10 {
        places.push(Socket::open(nodes[n % 2].addr, &token).await.expect("a place").attend());
    }
    assert!(Socket::open(nodes[1].addr, &token).await.is_err(), "the eleventh");
    let seen = app.inbox("alice").ask("GET", "/users/alice/presence", None).await.body;
    assert_eq!(seen, json!({"online": true, "connections": 10}));
    let mut passed = 0;
    for n in 0..120 {
        let answer = app.at(nodes[n % 2].addr).post(&crate::harness::App::event("bob", n)).await;
        passed += usize::from(answer.status == 200);
    }
    assert_eq!(passed, 100, "one limit of 300");

    // One of the servers dies: events of its channels come from the store.
    cluster.servers()[1].kill();
    let platform = create_app(&database, nodes[0].addr, "b", false);
    let mut sockets = Vec::new();
    for user in 0..USERS {
        let token = platform.token(&format!("user{user}")).await;
        let mut socket = Socket::open(nodes[1].addr, &token).await.unwrap();
        socket.subscribe(&["**"]).await;
        sockets.push(socket);
    }
    for (user, socket) in sockets.iter_mut().enumerate() {
        platform.publish(&format!("user{user}"), "x").await;
        assert_eq!(socket.offset().await, 11);
    }
}
