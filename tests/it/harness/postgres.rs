//! A PostgreSQL that a test may stop at any moment and start again, of Debian's version or of the newest.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sqlx_pg::{Connection as _, Executor as _, PgConnection};

use super::redis::free_port;

pub struct PostgresServer {
    folder: tempfile::TempDir,
    port: u16,
    programs: PathBuf,
    settings: String,
}

impl PostgresServer {
    /// Debian's, with the logins `owner`, who may make databases and roles, and `hub`.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// With further settings, as `-c name=value`.
    pub async fn start_with(settings: &str) -> Self {
        Self::of("ORIVA_TEST_POSTGRES_BIN", settings, "UTF8").await
    }

    /// The newest one that there is.
    pub async fn newest() -> Self {
        Self::of("ORIVA_TEST_POSTGRES_NEW", "", "UTF8").await
    }

    /// With databases of another encoding.
    pub async fn with_encoding(encoding: &str) -> Self {
        Self::of("ORIVA_TEST_POSTGRES_BIN", "", encoding).await
    }

    async fn of(programs: &str, settings: &str, encoding: &str) -> Self {
        let server = Self::prepare(programs, settings);
        let encoding = format!("--encoding={encoding}");
        server.run("initdb", &["-D", &server.data(), "-U", "postgres", "--auth=trust", &encoding, "--locale=C"]);
        server.go();
        server.sql("create role owner login createdb createrole; create role hub login").await;
        server
    }

    fn prepare(programs: &str, settings: &str) -> Self {
        let programs = std::env::var_os(programs)
            .unwrap_or_else(|| panic!("{programs}: run the tests with ./scripts/test"))
            .into();
        let folder = tempfile::TempDir::new().expect("a folder");
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(folder.path()).status().expect("chown").success());
        }
        Self { folder, port: free_port(), programs, settings: settings.to_owned() }
    }

    /// A standby of this one, which follows it asynchronously.
    pub async fn standby(&self) -> Self {
        let standby = Self::prepare("ORIVA_TEST_POSTGRES_BIN", &self.settings);
        let (port, data) = (self.port.to_string(), standby.data());
        let args = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-D", &data, "-R", "-X", "stream", "-c", "fast"];
        standby.run("pg_basebackup", &args);
        standby.go();
        standby
    }

    /// Makes a standby take over.
    pub fn promote(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "promote"]);
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `postgres://owner@host:port`.
    pub fn url(&self) -> String {
        format!("postgres://owner@127.0.0.1:{}", self.port)
    }

    /// A login's URL of a database.
    pub fn url_of(&self, login: &str, database: &str) -> String {
        format!("postgres://{login}@127.0.0.1:{}/{database}", self.port)
    }

    /// The superuser, in a database.
    pub async fn superuser(&self, database: &str) -> PgConnection {
        PgConnection::connect(&self.url_of("postgres", database)).await.expect("PostgreSQL answers")
    }

    /// Runs statements as the superuser, in the database `postgres`.
    pub async fn sql(&self, statements: &str) {
        let mut superuser = self.superuser("postgres").await;
        for statement in statements.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
            superuser.execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }

    /// Asks for passwords of a login.
    pub async fn require_password(&self, login: &str) {
        let file = Path::new(&self.data()).join("pg_hba.conf");
        let rules = std::fs::read_to_string(&file).expect("its rules");
        std::fs::write(&file, format!("host all {login} 127.0.0.1/32 scram-sha-256\n{rules}")).expect("written");
        self.sql("select pg_reload_conf()").await;
    }

    /// Stops it at once and without a shutdown, as a crash does.
    pub fn stop(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "stop"]);
    }

    pub fn go(&self) {
        let options = format!(
            "-p {} -k {} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=100 -c shared_buffers=32MB {}",
            self.port,
            self.path(),
            self.settings
        );
        let log = format!("{}/log", self.path());
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-l", &log, "-o", &options, "start"]);
    }

    /// Where it keeps its files; only its own user may write there.
    pub fn path(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn data(&self) -> String {
        format!("{}/data", self.path())
    }

    fn run(&self, program: &str, args: &[&str]) {
        as_its_user(&self.programs.join(program), args);
    }
}

/// Runs a program as PostgreSQL's user, which it refuses to be root.
pub fn as_its_user(program: &Path, args: &[&str]) {
    let status = command(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.expect("a program of PostgreSQL's").success(), "{} {args:?}", program.display());
}

/// A program that does not run as root.
pub fn command(program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/");
    command
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(Path::new(&self.data()).join("postmaster.pid")).unwrap_or_default();
        if let Some(pid) = pid.lines().next() {
            let _ = Command::new("kill").args(["-QUIT", pid]).status();
        }
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}
