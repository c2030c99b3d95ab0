//! The real program is killed, stopped and started again.

use std::{process::Command, time::Duration};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    harness::{
        App, Backend, Database, HubProcess,
        callers::client,
        eventually,
        process::{command, create_app, free_addr},
    },
    on_both_stores,
};

on_both_stores!(
    an_acknowledged_event_survives_kill_9,
    sigterm_drains_and_exits_0,
    a_connection_at_rest_holds_up_no_stop,
    a_second_signal_ends_at_once,
    a_command_beside_a_running_hub_is_noticed,
    the_log_names_requests_and_holds_no_secret,
    each_event_has_a_line_unless_that_is_turned_off,
    a_log_that_cannot_be_written_costs_nothing_else,
);

/// Its client is told nothing that it could read, so the log says what is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_to_the_plain_port_has_a_line() {
    let hub = HubProcess::start(&Database::new(Backend::Sqlite).await, &[]).await;
    assert!(client().get(format!("https://{}/healthz", hub.addr)).send().await.is_err());
    eventually("it is said", async || hub.log().contains("speaks TLS to the plain port")).await;
}

/// The seed's T021. A line has no data, and a refused event has none.
async fn each_event_has_a_line_unless_that_is_turned_off(backend: Backend) {
    let database = Database::new(backend).await;
    let mut app: Option<App> = None;
    for (events, lines) in [("true", 3), ("false", 0)] {
        let hub = HubProcess::start(&database, &[("ORIVA_HUB__LOG__EVENTS", events)]).await;
        let here = app.map_or_else(|| create_app(&database, hub.addr, "a", false), |app| app.at(hub.addr));
        for n in 0..2 {
            here.publish("alice", n).await;
        }
        here.post(&json!({"event_data": {"not": "stored"}})).await;
        here.notify(&App::notification("alice", "secret title")).await;
        let id = client().get(format!("http://{}/nowhere", hub.addr)).send().await.unwrap();
        let id = id.headers()["x-request-id"].to_str().unwrap().to_owned();
        eventually("a later line is there", async || hub.log().contains(&id)).await;
        let log = hub.log();
        let told = log.lines().filter(|line| line.contains("event published"));
        assert_eq!(told.clone().count(), lines, "{log}");
        assert!(told.clone().all(|line| line.contains("app_id") && line.contains("offset")), "{log}");
        assert!(!log.contains("secret title"), "{log}");
        app = Some(here);
        hub.kill();
    }
}

async fn an_acknowledged_event_survives_kill_9(backend: Backend) {
    let database = Database::new(backend).await;
    let mut acknowledged: Vec<(u64, String)> = Vec::new();
    let mut app: Option<App> = None;
    for round in 0..3_u64 {
        let hub = HubProcess::start(&database, &[]).await;
        let here = match &app {
            None => create_app(&database, hub.addr, "a", false),
            Some(app) => app.at(hub.addr),
        };
        app = Some(here.clone());
        let publishers: Vec<_> = (0..8)
            .map(|lane| {
                let app = here.clone();
                tokio::spawn(async move {
                    let mut acknowledged = Vec::new();
                    for n in 0.. {
                        let event = App::event("alice", format!("{round}-{lane}-{n}"));
                        let Ok(response) = app.request("POST", "/events").json(&event).send().await else { break };
                        let Ok(body) = response.json::<serde_json::Value>().await else { break };
                        let Some(offset) = body["offset"].as_u64() else { break };
                        acknowledged.push((offset, body["event_id"].as_str().unwrap().to_owned()));
                    }
                    acknowledged
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(700 + round * 130)).await;
        hub.kill();
        for publisher in publishers {
            acknowledged.extend(publisher.await.unwrap());
        }
    }
    assert!(acknowledged.len() > 100, "{} events were acknowledged", acknowledged.len());
    let hub = HubProcess::start(&database, &[]).await;
    let app = app.unwrap().at(hub.addr);
    let mut socket = app.connect_app().await;
    let (events, resumed) = socket.resume(0).await;
    assert_eq!(resumed["recovered"], true);
    let stored: Vec<(u64, &str)> =
        events.iter().map(|event| (event["offset"].as_u64().unwrap(), event["event_id"].as_str().unwrap())).collect();
    let dense: Vec<u64> = (1..=stored.len() as u64).collect();
    assert_eq!(stored.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), dense);
    for (offset, id) in &acknowledged {
        assert_eq!(stored[*offset as usize - 1], (*offset, id.as_str()), "acknowledged and lost");
    }
}

async fn sigterm_drains_and_exits_0(backend: Backend) {
    let database = Database::new(backend).await;
    let hub = HubProcess::start(&database, &[("ORIVA_HUB__SERVER__SHUTDOWN_TIMEOUT_SECONDS", "10")]).await;
    let app = create_app(&database, hub.addr, "a", false);
    let mut sockets = Vec::new();
    for n in 0..400 {
        sockets.push(app.connect(&format!("user-{n}")).await);
    }
    let addr = hub.addr;
    hub.signal("-TERM");
    // The hub spreads four hundred closes over two seconds, which is enough time to look.
    eventually("not ready any more", async || {
        let answer = crate::harness::callers::send(addr, "GET", "/readyz", None, &[], None).await;
        answer.status == 503 && answer.body["failing"] == "draining"
    })
    .await;
    let refused = app.post(&App::event("alice", "1")).await;
    assert_eq!((refused.status, refused.code(), refused.header("retry-after")), (503, "overloaded", "1"));
    let refused = app.try_connect_app().await.err().unwrap();
    assert_eq!(refused, crate::harness::Refused::Http(503, "overloaded".to_owned()));
    let mut at = Vec::new();
    for socket in &mut sockets {
        assert_eq!(socket.closed().await.0, 1001);
        at.push(());
    }
    assert_eq!(hub.exit_code().await, Some(0));
}

async fn a_connection_at_rest_holds_up_no_stop(backend: Backend) {
    let database = Database::new(backend).await;
    // Much longer than the test takes.
    let hub = HubProcess::start(&database, &[("ORIVA_HUB__SERVER__SHUTDOWN_TIMEOUT_SECONDS", "3600")]).await;
    let client = client();
    let answer = client.get(format!("http://{}/healthz", hub.addr)).send().await.unwrap();
    assert!(!answer.text().await.unwrap().is_empty());
    hub.signal("-TERM");
    assert_eq!(hub.exit_code().await, Some(0));
    drop(client);
}

async fn a_second_signal_ends_at_once(backend: Backend) {
    let database = Database::new(backend).await;
    let hub = HubProcess::start(&database, &[("ORIVA_HUB__SERVER__SHUTDOWN_TIMEOUT_SECONDS", "3600")]).await;
    let app = create_app(&database, hub.addr, "a", false);
    app.publish("alice", "1").await;
    let mut sockets = Vec::new();
    for n in 0..1000 {
        sockets.push(app.connect(&format!("user-{n}")).await);
    }
    hub.signal("-INT");
    eventually("draining", async || {
        crate::harness::callers::send(hub.addr, "GET", "/readyz", None, &[], None).await.status == 503
    })
    .await;
    hub.signal("-INT");
    assert_eq!(hub.exit_code().await, Some(1));
    let hub = HubProcess::start(&database, &[]).await;
    assert_eq!(app.at(hub.addr).events("").await.body["total"], 1);
}

async fn a_command_beside_a_running_hub_is_noticed(backend: Backend) {
    let database = Database::new(backend).await;
    let hub = HubProcess::start(&database, &[]).await;
    let app = create_app(&database, hub.addr, "a", false);
    let mut socket = app.connect_app().await;
    app.publish("alice", "cached").await;
    let run = |args: &[&str]| crate::harness::process::run(&database, args);
    assert!(run(&["app", "disable", "a"]).status.success());
    assert_eq!(socket.closed().await.0, 4003);
    eventually("refused", async || app.post(&App::event("alice", "1")).await.status == 401).await;
    assert!(run(&["app", "enable", "a"]).status.success());
    eventually("let in again", async || app.post(&App::event("alice", "1")).await.status == 200).await;

    let made: serde_json::Value = serde_json::from_slice(&run(&["key", "create", "a", "--json"]).stdout).unwrap();
    let second = App::new(hub.addr, "a", made["api_key"].as_str().unwrap());
    let mut socket = second.connect_app().await;
    assert!(run(&["key", "revoke", made["key_id"].as_str().unwrap()]).status.success());
    assert_eq!(socket.closed().await.0, 4003);
    let token = String::from_utf8(run(&["token", "create", "a", "alice", "--ttl", "60"]).stdout).unwrap();
    let mut device = crate::harness::Socket::open(hub.addr, token.trim()).await.unwrap();
    assert_eq!(device.ask(json!({"action": "ping"})).await["type"], "pong");
}

async fn the_log_names_requests_and_holds_no_secret(backend: Backend) {
    let database = Database::new(backend).await;
    let hub = HubProcess::start(&database, &[("RUST_LOG", "debug"), ("ORIVA_HUB__LOG__FORMAT", "json")]).await;
    let app = create_app(&database, hub.addr, "a", false);
    let token = app.token("alice").await;
    let mut event = App::event("alice", "entity-marker");
    event["event_data"] = json!({"secret": "payload-marker"});
    let answer = app.post_with_key(&event, "idempotency-marker").await;
    assert_eq!(answer.status, 200);
    let mut socket = crate::harness::Socket::open_with(hub.addr, &format!("?token={token}"), &[]).await.unwrap();
    socket.resume(0).await;
    app.post(&json!({"user_id": "payload-marker"})).await;
    socket.close().await;
    let id = answer.header("x-request-id").to_owned();
    eventually("the request is in the log", async || hub.log().contains(&id)).await;
    let log = hub.log();
    for secret in
        [&*app.key, &*token, "payload-marker", "entity-marker", crate::harness::hub::ADMIN_KEY, "a token secret"]
    {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    let line = log.lines().find(|line| line.contains(&id)).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).expect("a log line is JSON");
    assert_eq!((&line["message"], &line["status"]), (&json!("request"), &json!(200)), "{line}");
}

async fn a_log_that_cannot_be_written_costs_nothing_else(backend: Backend) {
    let database = Database::new(backend).await;
    let addr = free_addr();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut hub = command(&database, &["serve", "--bind", &addr.to_string()]).stderr(full).spawn().unwrap();
    let status = async |path: &str| client().get(format!("http://{addr}{path}")).send().await.map(|got| got.status());
    eventually("it serves", async || status("/readyz").await.is_ok_and(|status| status == 200)).await;
    // Each of these leaves a line in the log.
    let app = create_app(&database, addr, "a", false);
    assert_eq!(status("/nowhere").await.unwrap(), 404);
    assert_eq!(app.request("POST", "/events").body("{").send().await.unwrap().status(), 415);
    assert_eq!(app.publish("alice", 1).await, 1);
    Command::new("kill").arg(hub.id().to_string()).status().unwrap();
    assert_eq!(hub.wait().unwrap().code(), Some(0));
}

/// Bytes that are not HTTP get an answer, and no line at a level that wakes an operator.
#[tokio::test]
async fn what_is_no_http_is_no_error_of_the_hubs() {
    let hub = HubProcess::start(&Database::new(Backend::Sqlite).await, &[]).await;
    for garbage in ["GET /<> HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nContent-Length: -3\r\n\r\n", "\x01\x02\r\n\r\n"] {
        let mut socket = tokio::net::TcpStream::connect(hub.addr).await.unwrap();
        socket.write_all(garbage.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{garbage:?}: {answer}");
    }
    assert!(!hub.log().contains("ERROR"), "{}", hub.log());
}
