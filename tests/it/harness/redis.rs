//! A Redis that a test may kill, freeze and start empty, and a proxy that cuts the connection to it.

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};

pub struct RedisServer {
    child: Child,
    port: u16,
    args: Vec<String>,
    folder: tempfile::TempDir,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(args: &[&str]) -> Self {
        let port = free_port();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let folder = tempfile::TempDir::new().expect("a folder");
        let child = spawn(port, &args, &folder);
        let server = Self { child, port, args, folder };
        server.until_it_listens().await;
        server
    }

    /// With TLS beside the plain port. Its certificate is signed by `ca.pem` in its folder.
    pub async fn start_tls() -> Self {
        let folder = tempfile::TempDir::new().expect("a folder");
        let authority = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("ca.pem"), authority.cert.pem()).expect("written");
        std::fs::write(path("key.pem"), authority.signing_key.serialize_pem()).expect("written");
        let (port, tls_port) = (free_port(), free_port());
        let args: Vec<String> = [
            ("--tls-port", tls_port.to_string()),
            ("--tls-cert-file", path("ca.pem")),
            ("--tls-key-file", path("key.pem")),
            ("--tls-ca-cert-file", path("ca.pem")),
            ("--tls-auth-clients", "no".to_owned()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
        let child = spawn(port, &args, &folder);
        let server = Self { child, port, args, folder };
        server.until_it_listens().await;
        server
    }

    pub fn tls_port(&self) -> u16 {
        self.args[1].parse().expect("a port")
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Kills it with SIGKILL. Its data is lost.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    /// Starts again at the same port, empty.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.port, &self.args, &self.folder);
        self.until_it_listens().await;
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill");
        assert!(status.success());
    }

    /// An answer of `redis-cli`.
    pub fn cli(&self, args: &[&str]) -> String {
        let output =
            Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(args).output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    async fn until_it_listens(&self) {
        for _ in 0..400 {
            if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("redis-server never listened");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, args: &[String], folder: &tempfile::TempDir) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
        .arg(folder.path())
        .args(["--port", &port.to_string()])
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server: run the tests with ./scripts/test")
}

/// A cluster of three servers.
pub struct RedisCluster {
    servers: Vec<RedisServer>,
}

impl RedisCluster {
    pub async fn start() -> Self {
        let mut servers = Vec::new();
        for _ in 0..3 {
            servers
                .push(RedisServer::start_with(&["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]).await);
        }
        for (n, server) in servers.iter().enumerate() {
            let (from, to) = (n * 5461, if n == 2 { 16_383 } else { (n + 1) * 5461 - 1 });
            assert_eq!(server.cli(&["cluster", "addslotsrange", &from.to_string(), &to.to_string()]), "OK");
            assert_eq!(servers[0].cli(&["cluster", "meet", "127.0.0.1", &server.port.to_string()]), "OK");
        }
        super::eventually("the cluster is one", async || {
            servers.iter().all(|server| {
                let about = server.cli(&["cluster", "info"]);
                about.contains("cluster_state:ok") && about.contains("cluster_known_nodes:3")
            })
        })
        .await;
        Self { servers }
    }

    pub fn url(&self) -> String {
        self.servers[0].url()
    }

    pub fn servers(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// Passes bytes on to another address until it is cut. Then nothing comes through any more, without an error, as when a
/// cable is pulled.
pub struct Proxy {
    pub addr: SocketAddr,
    port: Arc<AtomicU16>,
    ended: watch::Sender<u64>,
    requests_cut: Arc<AtomicBool>,
    answers_cut: Arc<AtomicBool>,
    changed: watch::Sender<()>,
}

impl Proxy {
    pub async fn to(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (requests_cut, answers_cut) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (changed, change) = watch::channel(());
        let (ended, end) = watch::channel(0);
        let (requests, answers) = (requests_cut.clone(), answers_cut.clone());
        let port = Arc::new(AtomicU16::new(port));
        let to = port.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (requests, answers) = (requests.clone(), answers.clone());
                let (change, to, mut end) = (change.clone(), to.clone(), end.clone());
                end.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", to.load(Ordering::SeqCst))).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    let both = async {
                        tokio::join!(
                            pass_on(near_in, far_out, requests, change.clone()),
                            pass_on(far_in, near_out, answers, change)
                        )
                    };
                    tokio::select! { _ = both => {}, _ = end.changed() => {} }
                });
            }
        });
        Self { addr, port, ended, requests_cut, answers_cut, changed }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Leads to another port of this machine from now on, and ends all connections.
    pub fn lead_to(&self, port: u16) {
        self.port.store(port, Ordering::SeqCst);
        self.ended.send_modify(|count| *count += 1);
    }

    pub fn cut(&self) {
        self.requests_cut.store(true, Ordering::SeqCst);
        self.cut_answers();
    }

    /// Requests arrive, and their answers do not.
    pub fn cut_answers(&self) {
        self.answers_cut.store(true, Ordering::SeqCst);
    }

    /// What was on the way when it was cut comes through now, late.
    pub fn heal(&self) {
        self.requests_cut.store(false, Ordering::SeqCst);
        self.answers_cut.store(false, Ordering::SeqCst);
        let _ = self.changed.send(());
    }
}

async fn pass_on(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    cut: Arc<AtomicBool>,
    mut change: watch::Receiver<()>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        while cut.load(Ordering::SeqCst) {
            if change.changed().await.is_err() {
                return;
            }
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
