//! Every long-lived task and actor is restarted after a panic, and `/readyz` says which one is down.

use super::readiness;
use crate::harness::{Backend, Receiver, RedisServer, TestHub, eventually};

async fn restarts(hub: &TestHub, task: &str) -> u64 {
    let text = reqwest::get(format!("http://{}/metrics", hub.addr)).await.unwrap().text().await.unwrap();
    let name = format!("oriva_task_restarts_total{{task=\"{task}\"}} ");
    let line =
        text.lines().find_map(|line| line.strip_prefix(&*name)).unwrap_or_else(|| panic!("{task} is supervised"));
    line.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_panics_runs_again() {
    let redis = RedisServer::start().await;
    let hub = TestHub::start_with(Backend::Postgres, |config| {
        config.redis.url = Some(redis.url().into());
        config.webhooks.allow_http = true;
    })
    .await;
    let app = hub.app("a").await;
    let receiver = Receiver::start().await;
    app.webhook(&receiver.url("/ok"), &["**"]).await;
    let is_ready = async || readiness(hub.addr).await == (200, String::new());
    eventually("ready", is_ready).await;

    let tasks = hub.hub.tasks();
    let mut names = tasks.names();
    for name in [
        "archiver",
        "bus",
        "bus_events",
        "connection_limiter",
        "delivery_receipts",
        "idempotency_purge",
        "identity_watch",
        "key_usage",
        "node_beats",
        "notification_expiry",
        "outbox_watch",
        "resyncs",
        "socket_loop",
        "webhook_recovery",
        "write_watch",
        "writer",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    names.extend(["registry", "webhooks"]);
    let fail = |name: &str| match name {
        "registry" => hub.hub.realtime().panic_registry(),
        "webhooks" => hub.hub.webhooks().panic(),
        name => tasks.poison(name),
    };
    // One alone, and then all at once.
    fail("writer");
    eventually("it is named", async || readiness(hub.addr).await == (503, "writer".to_owned())).await;
    eventually("ready again", is_ready).await;
    assert_eq!(app.publish("alice", 0).await, 1);

    let mut before = Vec::new();
    for name in &names {
        before.push(restarts(&hub, name).await);
    }
    names.iter().for_each(|name| fail(name));
    for (name, before) in names.iter().zip(before) {
        eventually(&format!("{name} was restarted"), async || restarts(&hub, name).await > before).await;
    }
    eventually("ready again", is_ready).await;
    let mut socket = app.connect("alice").await;
    socket.subscribe(&["**"]).await;
    assert_eq!(app.publish("alice", 1).await, 2);
    assert_eq!(socket.offset().await, 2);
    receiver.wait_for("/ok", 2).await;
}
