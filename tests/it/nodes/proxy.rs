//! The load balancers of `docs/proxy`, with other ports alone.

use std::{
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::Nodes;
use crate::harness::{
    App, Socket, eventually,
    ledger::{Load, Watcher, settle},
    redis::free_port,
};

struct Balancer {
    child: Child,
    addr: std::net::SocketAddr,
    _folder: tempfile::TempDir,
}

impl Balancer {
    /// `run`: the program and its arguments, `FILE` standing for the configuration.
    async fn start(nodes: &Nodes, example: &str, run: &[&str]) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let port = free_port();
        let mut text = std::fs::read_to_string(format!("{}/docs/proxy/{example}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        text = text.replace("listen 8080;", &format!("listen {port};")).replace("bind :8080", &format!("bind :{port}"));
        for (n, node) in nodes.nodes.iter().enumerate() {
            let was = format!("127.0.0.1:{}", 8081 + n);
            assert!(text.contains(&was), "{example} names node {n}");
            text = text.replace(&was, &node.addr.to_string());
        }
        // As many as any test machine allows.
        text = text
            .replace("maxconn 100000", "maxconn 1000")
            .replace("worker_connections 65536", "worker_connections 512");
        text = text.replace("/tmp/oriva-hub-nginx.pid", &folder.path().join("pid").display().to_string());
        let file = folder.path().join(example);
        std::fs::write(&file, text).unwrap();
        let args =
            run[1..].iter().map(|arg| if *arg == "FILE" { file.display().to_string() } else { (*arg).to_owned() });
        let child = Command::new(run[0])
            .args(args)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdout(Stdio::null())
            .spawn()
            .expect("a balancer: run the tests with ./scripts/test");
        let addr = format!("127.0.0.1:{port}").parse().unwrap();
        let balancer = Self { child, addr, _folder: folder };
        eventually("it listens", async || tokio::net::TcpStream::connect(addr).await.is_ok()).await;
        balancer
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // Its workers go with it.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// Behind a load balancer events come in order, no client loses anything while each node restarts in turn, and no request fails.
async fn serves_and_survives_restarts(example: &str, run: &[&str]) {
    let window = [
        ("ORIVA_HUB__SERVER__DRAIN_DELAY_SECONDS", "3"),
        ("ORIVA_HUB__SERVER__SHUTDOWN_TIMEOUT_SECONDS", "3"),
        ("ORIVA_HUB__SERVER__TRUSTED_PROXIES", "127.0.0.1/32"),
    ];
    let mut hub = Nodes::start_with(3, &window).await;
    let balancer = Balancer::start(&hub, example, run).await;
    let app = hub.app.at(balancer.addr);
    let metrics = reqwest::get(format!("http://{}/metrics", balancer.addr)).await.unwrap();
    assert_eq!(metrics.status(), 403, "figures are the operator's own business");
    let by_subprotocol = Socket::open_v1(balancer.addr, &app.token("bob").await).await.expect("welcomed");
    by_subprotocol.close().await;

    let addresses = Arc::new(Mutex::new(vec![balancer.addr]));
    let token = app.token("alice").await;
    let mut watchers = Vec::new();
    for n in 0..6 {
        watchers.push(Watcher::start(&addresses, n, &token).await);
    }
    let load = Load::start(&app, &addresses, "alice", 4, Duration::from_millis(10));
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let old = hub.nodes.remove(0);
        let addr = old.addr;
        old.signal("-TERM");
        assert_eq!(old.exit_code().await, Some(0));
        let url = hub.redis.url();
        let env = [("REDIS_URL", &*url), window[0], window[1], window[2]];
        hub.nodes.push(crate::harness::HubProcess::start_at(&hub.database, addr, &env).await);
    }
    let ledger = load.stop().await;
    assert_eq!((ledger.refused(), ledger.unanswered()), (Vec::new(), 0), "no request fails");
    assert!(watchers.iter().any(|watcher| watcher.connections() > 1), "some came back");
    let count = settle(&ledger, &watchers).await;
    origins_are_known(&hub, &balancer, &app).await;
    eprintln!("{example}: {count} events");
}

/// The audit log names the client that the balancer saw: neither the balancer, nor an address that the client claims.
async fn origins_are_known(hub: &Nodes, balancer: &Balancer, app: &App) {
    let client = reqwest::Client::builder().local_address(Some([127, 0, 0, 2].into())).build().unwrap();
    let url = format!("http://{}/api/v1/apps/{}/notifications", balancer.addr, app.id);
    let request = client.post(url).bearer_auth(&app.key).header("X-Forwarded-For", "203.0.113.7");
    let answer = request.json(&App::notification("carol", "Lunch?")).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let log = hub.admin("GET", "/api/v1/admin/audit?action=notification.created", None).await;
    assert_eq!(log.body["entries"][0]["ip_address"], "127.0.0.2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_as_in_the_example() {
    serves_and_survives_restarts("nginx.conf", &["nginx", "-c", "FILE", "-g", "daemon off;"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_as_in_the_example() {
    serves_and_survives_restarts("haproxy.cfg", &["haproxy", "-f", "FILE"]).await;
}
