//! Stopping, and a log that nobody reads.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::readiness;
use crate::harness::{
    App, Backend, Database, HubProcess,
    callers::client,
    eventually,
    process::{command, create_app, free_addr},
};

/// Standard error is a pipe, and its reader has stopped: a log driver on a full disk, a terminal with Ctrl-S.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_stops_nothing() {
    let database = Database::new(Backend::Sqlite).await;
    let addr = free_addr();
    let mut serve = command(&database, &["serve", "--bind", &addr.to_string()]);
    serve.env("ORIVA_HUB__LOG__FORMAT", "json");
    serve.env("ORIVA_HUB__RATE_LIMITS__ENABLED", "false").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut hub = serve.spawn().unwrap();
    eventually("it serves", async || readiness(addr).await.0 == 200).await;
    let app = create_app(&database, addr, "a", false);
    let client = client();
    let figure = async |name: &str| {
        let text = client.get(format!("http://{addr}/metrics")).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}")).to_owned();
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    // More than the pipe and the queue hold.
    eventually("lines are dropped and counted", async || {
        let batch: Vec<_> = (0..500).map(|n| App::event("alice", n)).collect();
        let answer = app.request("POST", "/events/batch").json(&serde_json::json!({"events": batch})).send().await;
        assert_eq!(answer.unwrap().status(), 200);
        figure("oriva_log_lines_dropped_total").await > 0.0
    })
    .await;
    for _ in 0..20 {
        assert_eq!(client.get(format!("http://{addr}/healthz")).send().await.unwrap().status(), 200);
        app.publish("alice", "x").await;
    }
    Command::new("kill").arg(hub.id().to_string()).status().unwrap();
    assert_eq!(hub.wait().unwrap().code(), Some(0), "it stops in order");
    let mut text = String::new();
    hub.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    for line in text.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "a whole line: {line}");
    }
}

/// A terminal that is closed sends SIGHUP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_up_drains_unless_the_terminal_is_not_to_matter() {
    let database = Database::new(Backend::Sqlite).await;
    let hub = HubProcess::start(&database, &[]).await;
    hub.signal("-HUP");
    assert_eq!(hub.exit_code().await, Some(0));

    let addr = free_addr();
    let program = command(&database, &["serve", "--bind", &addr.to_string()]);
    let mut nohup = Command::new("nohup");
    nohup.arg(program.get_program()).args(program.get_args()).env_clear();
    nohup.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    nohup.current_dir(database.folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut hub = nohup.spawn().unwrap();
    eventually("it serves", async || readiness(addr).await.0 == 200).await;
    Command::new("kill").args(["-HUP", &hub.id().to_string()]).status().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(readiness(addr).await.0, 200, "nohup keeps it running");
    Command::new("kill").arg(hub.id().to_string()).status().unwrap();
    assert_eq!(hub.wait().unwrap().code(), Some(0));
}

/// Behind a balancer: it is told first, and everything is served meanwhile; what still comes on open connections is served too,
/// and each ends with its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_announced_and_serves_to_its_end() {
    let database = Database::new(Backend::Sqlite).await;
    let hub = HubProcess::start(&database, &[("ORIVA_HUB__SERVER__DRAIN_DELAY_SECONDS", "8")]).await;
    let app = create_app(&database, hub.addr, "a", false);
    let mut socket = app.connect("alice").await;
    socket.subscribe(&["**"]).await;
    let mut kept = tokio::net::TcpStream::connect(hub.addr).await.unwrap();
    hub.signal("-TERM");
    eventually("it says so", async || readiness(hub.addr).await == (503, "draining".to_owned())).await;
    assert_eq!(app.publish("alice", 1).await, 1);
    assert_eq!(socket.offset().await, 1, "sockets are served, too");
    let mut answer = Vec::new();
    let mut ask = async |head: &str| {
        kept.write_all(head.as_bytes()).await.unwrap();
        answer.clear();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") && kept.read(&mut byte).await.unwrap() > 0 {
            answer.push(byte[0]);
        }
        String::from_utf8(answer.clone()).unwrap().to_lowercase()
    };
    let healthz = "HEAD /healthz HTTP/1.1\r\nHost: hub\r\n\r\n";
    let kept_open = ask(healthz).await;
    assert!(kept_open.starts_with("http/1.1 200") && !kept_open.contains("connection: close"), "{kept_open}");
    assert_eq!(socket.closed().await.0, 1001);
    assert_eq!(readiness(hub.addr).await.0, 0, "nobody listens any more");
    let last = ask(healthz).await;
    assert!(last.starts_with("http/1.1 200") && last.contains("connection: close"), "{last}");
    assert_eq!(hub.exit_code().await, Some(0));
}
