//! The real program in a process of its own, which tests may kill.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;

use super::{App, Database};

pub struct HubProcess {
    pub child: Child,
    pub addr: SocketAddr,
    log: Arc<Mutex<String>>,
}

/// The program, with a configuration of the test's own and nothing of this process's environment.
pub fn command(database: &Database, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oriva-hub"));
    command
        .args(args)
        .env_clear()
        .envs(std::env::vars().filter(|(name, _)| ["LD_LIBRARY_PATH", "LLVM_PROFILE_FILE"].contains(&name.as_str())))
        .current_dir(database.folder.path())
        .env("DATABASE_URL", &database.url)
        .env("ORIVA_HUB__SERVER__WORKERS", "2")
        .env("ORIVA_HUB__AUTH__ADMIN_KEY", super::hub::ADMIN_KEY)
        .env("ORIVA_HUB__AUTH__TOKEN_SECRET", "a token secret of at least 32 characters")
        .env("ORIVA_HUB__AUTH__ENCRYPTION_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    command
}

impl HubProcess {
    /// Starts and waits until it is ready.
    pub async fn start(database: &Database, env: &[(&str, &str)]) -> Self {
        Self::start_at(database, free_addr(), env).await
    }

    pub async fn start_at(database: &Database, addr: SocketAddr, env: &[(&str, &str)]) -> Self {
        let mut serve = command(database, &["serve", "--bind", &addr.to_string()]);
        serve.env("ORIVA_HUB__RATE_LIMITS__ENABLED", "false").envs(env.iter().copied());
        Self::of(serve, addr).await
    }

    /// Runs a command that becomes a hub at this address.
    pub async fn of(mut serve: Command, addr: SocketAddr) -> Self {
        let serve = serve.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = serve.spawn().expect("the program starts");
        // Its log must be read: a full pipe would block the process.
        let lines = BufReader::new(child.stderr.take().expect("piped"));
        let log = Arc::new(Mutex::new(String::new()));
        let kept = log.clone();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                eprintln!("hub: {line}");
                let mut kept = kept.lock().expect("no thread panicked");
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let mut process = Self { child, addr, log };
        process.until_ready().await;
        process
    }

    async fn until_ready(&mut self) {
        let client = super::callers::client();
        for _ in 0..600 {
            if let Ok(answer) = client.get(format!("http://{}/readyz", self.addr)).send().await
                && answer.status() == 200
            {
                return;
            }
            assert!(self.child.try_wait().expect("a child").is_none(), "the hub ended instead of getting ready");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the hub never got ready");
    }

    /// Sends SIGKILL, as the kernel does when memory runs out.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill");
        assert!(status.success());
    }

    /// Waits until it ends by itself. Returns its exit status.
    pub async fn exit_code(mut self) -> Option<i32> {
        for _ in 0..1200 {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the hub never ended");
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no thread panicked").clone()
    }

    /// Resident memory, in KiB.
    pub fn rss_kib(&self) -> u64 {
        let mut text = String::new();
        std::fs::File::open(format!("/proc/{}/status", self.child.id()))
            .and_then(|mut file| file.read_to_string(&mut text))
            .expect("a status");
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    }
}

impl Drop for HubProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end.
pub fn run(database: &Database, args: &[&str]) -> Output {
    command(database, args).output().expect("the program runs")
}

/// Creates an app with the command line.
pub fn create_app(database: &Database, addr: SocketAddr, id: &str, is_platform: bool) -> App {
    let mut args = vec!["app", "create", id, "--name", id, "--json"];
    if is_platform {
        args.push("--platform");
    }
    let output = run(database, &args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    App::new(addr, id, made["api_key"].as_str().expect("a key"))
}

pub fn free_addr() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address")
}
