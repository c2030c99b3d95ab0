//! A PostgreSQL that a test may stop at any moment and start again.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::redis::free_port;

pub struct PostgresServer {
    folder: tempfile::TempDir,
    port: u16,
}

impl PostgresServer {
    pub fn start() -> Self {
        let folder = tempfile::TempDir::new().expect("a folder");
        let server = Self { folder, port: free_port() };
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(server.folder.path()).status().expect("chown").success());
        }
        server
            .run("initdb", &["-D", &server.data(), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        server.go();
        let port = server.port.to_string();
        server.run(
            "psql",
            &[
                "-q",
                "-h",
                &server.path(),
                "-p",
                &port,
                "-U",
                "postgres",
                "-d",
                "postgres",
                "-c",
                "create role owner login createdb createrole",
                "-c",
                "create role hub login",
            ],
        );
        server
    }

    /// `postgres://owner@host:port`.
    pub fn url(&self) -> String {
        format!("postgres://owner@127.0.0.1:{}", self.port)
    }

    /// Stops it at once and without a shutdown, as a crash does.
    pub fn stop(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "stop"]);
    }

    pub fn go(&self) {
        let options = format!(
            "-p {} -k {} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=100 -c shared_buffers=32MB",
            self.port,
            self.path()
        );
        let log = format!("{}/log", self.path());
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-l", &log, "-o", &options, "start"]);
    }

    fn path(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn data(&self) -> String {
        format!("{}/data", self.path())
    }

    fn run(&self, program: &str, args: &[&str]) {
        let program = programs().join(program);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let status = command.args(args).current_dir("/").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("a program of PostgreSQL's").success(), "{args:?}");
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(Path::new(&self.data()).join("postmaster.pid")).unwrap_or_default();
        if let Some(pid) = pid.lines().next() {
            let _ = Command::new("kill").args(["-QUIT", pid]).status();
        }
    }
}

fn programs() -> PathBuf {
    std::env::var_os("ORIVA_TEST_POSTGRES_BIN")
        .expect("ORIVA_TEST_POSTGRES_BIN: run the tests with ./scripts/test")
        .into()
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}
