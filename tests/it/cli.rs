//! The command line and the configuration (contract §9).

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::harness::{
    App, Backend, Database, HubProcess, eventually,
    process::{command, create_app, run},
};

const PRODUCTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/production.toml");

/// The program in an empty folder with an empty environment.
fn bare(folder: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oriva-hub"));
    command.args(args).env_clear().current_dir(folder);
    command
}

#[tokio::test]
async fn a_first_start_prints_commands_that_work_as_they_stand() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut hub =
        bare(folder.path(), &["--bind", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(hub.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut until = |part: &str| lines.find(|line| line.contains(part)).unwrap().trim().to_owned();
    let watch = until(" watch --url ");
    let publish = [until(" publish --url "), until("--user alice")].map(|line| line.trim_end_matches('\\').to_owned());
    let mut watcher = Command::new("sh").args(["-c", &format!("exec {watch}")]).stdout(Stdio::piped()).spawn().unwrap();
    let mut frames = BufReader::new(watcher.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut next = || serde_json::from_str::<Value>(&frames.next().unwrap()).unwrap();
    assert_eq!(next()["type"], "welcome");
    assert_eq!(next()["type"], "subscribed");
    let answer = Command::new("sh").args(["-c", &publish.join(" ")]).output().unwrap();
    let answer = String::from_utf8(answer.stdout).unwrap();
    let event = next();
    assert_eq!(event["type"], "event");
    assert_eq!(answer.trim(), format!("{} offset 1", event["event_id"].as_str().unwrap()));
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    hub.kill().unwrap();
    hub.wait().unwrap();

    // Everything is its owner's alone.
    for file in std::fs::read_dir(folder.path().join("data")).unwrap() {
        let file = file.unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{}", file.path().display());
    }
    let output = bare(folder.path(), &["config", "show"]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("auth.admin_key = ********  # ./data/hub.secrets.toml"), "{shown}");

    // The second start has nothing to say.
    let mut again =
        bare(folder.path(), &["--bind", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    again.kill().unwrap();
    let said = again.wait_with_output().unwrap().stdout;
    assert_eq!(String::from_utf8(said).unwrap(), "");
}

/// All lines but those of the log that warn of this machine.
fn lines(said: &str) -> usize {
    said.trim().lines().filter(|line| !line.contains("WARN few open files")).count()
}

#[tokio::test]
async fn wrong_settings_are_one_line_and_exit_2() {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("typo.toml"), "[server]\nbnd = \"127.0.0.1:1\"\n").unwrap();
    std::fs::write(folder.path().join("broken.toml"), "[server\n").unwrap();
    std::fs::write(folder.path().join("tls.toml"), "[server.tls]\ncert = \"none.pem\"\nkey = \"none.pem\"\n").unwrap();
    for (args, env, part) in [
        (vec!["config", "check", "--config", "typo.toml"], None, "server.bnd"),
        (vec!["config", "check", "--config", "broken.toml"], None, "broken.toml"),
        (vec!["config", "check", "--config", "none.toml"], None, "none.toml"),
        (vec!["serve", "--bind", "nowhere"], None, "server.bind"),
        (vec!["config", "check"], Some(("ORIVA_HUB__STREAM__MAX_CONNECTIONS", "0")), "stream.max_connections"),
        (vec!["config", "check"], Some(("ORIVA_HUB__STREAM__MAX_CONNECTIONS", "many")), "stream.max_connections"),
        (vec!["config", "check"], Some(("ORIVA_HUB__STREAM__TYPO", "1")), "stream.typo"),
        (vec!["config", "check"], Some(("DATABASE_URL", "mysql://x")), "database.url"),
        (vec!["config", "check"], Some(("DATABASE_URL", "postgres://x/y")), "auth.token_secret"),
        (vec!["serve", "--bind", "127.0.0.1:0"], Some(("DATABASE_URL", "postgres://x/y")), "auth.token_secret"),
        (vec!["config", "check"], Some(("REDIS_URL", "http://x")), "redis.url"),
        (vec!["config", "check"], Some(("ORIVA_HUB__AUTH__ADMIN_KEY", "short")), "auth.admin_key"),
        (vec!["config", "check"], Some(("ORIVA_HUB__AUTH__ENCRYPTION_KEY", "short")), "auth.encryption_key"),
        (vec!["config", "check"], Some(("RUST_LOG", "a=b=c")), "log.level"),
        (vec!["config", "check"], Some(("RUST_LOG", "inof")), "log.level"),
        (vec!["config", "check"], Some(("DATABASE_URL", "sqlite://")), "database.url"),
        (vec!["config", "check"], Some(("ORIVA_HUB__RETENTION__ARCHIVE_URL", "file:x")), "retention.archive_url"),
        (vec!["config", "check", "--config", "tls.toml"], None, "none.pem"),
        (vec!["serve", "--config", "tls.toml", "--bind", "127.0.0.1:0"], None, "server.tls.cert: none.pem"),
        (vec!["app", "list", "--database-url", "sqlite://none.db"], None, "there is no none.db"),
        (vec!["archive", "--dry-run", "--database-url", "sqlite://none.db"], None, "there is no none.db"),
        (vec!["migrate"], None, "there is no ./data/hub.db"),
        (vec!["config", "check"], Some(("DATABASE_URL", "postgres://hub:ab/c+d=@localhost/hub")), "%2F"),
        (vec!["app", "list"], Some(("DATABASE_URL", "postgres://hub:ab/c+d=@localhost/hub")), "%2F"),
        (vec!["config", "check"], Some(("ORIVA_HUB_SERVER__BIND", "127.0.0.1:1")), "ORIVA_HUB_SERVER__BIND: "),
        (vec!["config", "check"], Some(("ORIVA_HUB_AUTH_ADMIN_KEY", "x")), "ORIVA_HUB_AUTH_ADMIN_KEY: "),
        (vec!["serve", "--config", PRODUCTION, "--bind", "127.0.0.1:0"], None, "database.url must be set"),
        (vec!["config", "check"], Some(("ORIVA_HUB__SERVER__TRUSTED_PROXIES", "10.0.0.1")), "server.trusted_proxies"),
        (vec!["config", "check"], Some(("ORIVA_HUB__SERVER__TLS__CERT", "x.pem")), "server.tls.cert"),
        (
            vec!["config", "check"],
            Some(("ORIVA_HUB__WEBHOOKS__ALLOWED_NETWORKS", "10.0.0.0/8,x")),
            "webhooks.allowed_networks",
        ),
    ] {
        let output = bare(folder.path(), &args).envs(env).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?} {env:?}: {said}");
        assert!(said.contains(part) && lines(&said) == 1, "{args:?} {env:?}: {said}");
    }
    // Kubernetes sets such variables for services with these names.
    let others = [("ORIVA_HUB_SERVICE_HOST", "10.0.0.1"), ("ORIVA_HUB_REDIS_PORT", "tcp://10.0.0.2:6379")];
    assert!(bare(folder.path(), &["config", "check"]).envs(others).status().unwrap().success());
    assert_eq!(bare(folder.path(), &["dance"]).output().unwrap().status.code(), Some(2));
    assert_eq!(
        bare(folder.path(), &["app", "create", "Bad Id", "--name", "x"]).output().unwrap().status.code(),
        Some(2)
    );
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = busy.local_addr().unwrap().to_string();
    std::fs::write(folder.path().join("junk.db"), "no database, but longer than the head of one").unwrap();
    std::fs::create_dir(folder.path().join("folder.db")).unwrap();
    for (args, part) in [
        (vec!["--bind", &busy], &*busy),
        (vec!["--bind", "127.0.0.1:0", "--database-url", "sqlite://junk.db"], "database.url: junk.db"),
        (vec!["--bind", "127.0.0.1:0", "--database-url", "sqlite://folder.db"], "database.url: folder.db"),
    ] {
        let output = bare(folder.path(), &args).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "a failure at run time: {said}");
        assert!(said.contains(part) && lines(&said) == 1, "{args:?}: {said}");
    }
    assert!(!folder.path().join("junk.secrets.toml").exists());
}

#[test]
fn lost_secrets_are_told_of() {
    // A command that creates a store also creates its secrets.
    let folder = tempfile::TempDir::new().unwrap();
    let folder = folder.path();
    assert!(bare(folder, &["app", "create", "shop", "--name", "Shop"]).status().unwrap().success());
    let log = || {
        let mut hub = bare(folder, &["--bind", "127.0.0.1:0"]).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(hub.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut said = Vec::new();
        for line in lines {
            let is_up = line.contains("listening");
            said.push(line);
            if is_up {
                break;
            }
        }
        hub.kill().unwrap();
        hub.wait().unwrap();
        said.join("\n")
    };
    assert!(!log().contains("made anew"));
    std::fs::remove_file(folder.join("data/hub.secrets.toml")).unwrap();
    let said = log();
    assert!(said.contains("made anew") && said.contains("./data/hub.secrets.toml"), "{said}");
    assert!(!log().contains("made anew"));
}

#[test]
fn output_that_nobody_takes_is_no_panic() {
    let folder = tempfile::TempDir::new().unwrap();
    for args in [vec!["config", "show"], vec!["openapi"], vec!["man"], vec!["completions", "bash"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = bare(folder.path(), &args).stdout(full).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("standard output") && said.trim().lines().count() == 1, "{args:?}: {said}");
    }
}

#[tokio::test]
async fn settings_have_their_precedence_and_secrets_are_masked() {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(
        folder.path().join("hub.toml"),
        "[server]\nbind = \"127.0.0.1:1\"\nworkers = 3\n[stream]\nmax_connections = 4\n",
    )
    .unwrap();
    let output = bare(
        folder.path(),
        &["config", "show", "--json", "--config", "hub.toml", "--database-url", "sqlite://flag.db"],
    )
    .env("ORIVA_HUB__SERVER__WORKERS", "5")
    .env("ORIVA_HUB__AUTH__ADMIN_KEY", "01234567890123456789012345678901")
    .env("ORIVA_HUB__SERVER__CORS__ALLOWED_ORIGINS", "https://a.example, https://b.example")
    .env("DATABASE_URL", "sqlite://env.db")
    .output()
    .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(!said.contains("01234567890123456789012345678901"));
    let shown: Value = serde_json::from_str(&said).unwrap();
    let find = |key: &str| {
        let setting = shown["settings"].as_array().unwrap().iter().find(|setting| setting["key"] == key);
        let setting = setting.unwrap_or_else(|| panic!("{key} is shown"));
        (setting["value"].as_str().unwrap().to_owned(), setting["source"].as_str().unwrap().to_owned())
    };
    assert_eq!(find("database.url"), ("sqlite://flag.db".to_owned(), "--database-url".to_owned()));
    assert_eq!(find("server.workers").0, "5");
    assert_eq!(find("server.bind").0, "127.0.0.1:1");
    assert!(find("server.bind").1.contains("hub.toml"));
    assert_eq!(find("stream.max_connections").0, "4");
    assert_eq!(find("stream.heartbeat_seconds"), ("30".to_owned(), "default".to_owned()));
    assert_eq!(find("auth.admin_key").0, "********");
    assert!(find("server.cors.allowed_origins").0.contains("b.example"));
}

#[tokio::test]
async fn apps_keys_and_the_schema_are_managed_by_command() {
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let database = Database::new(backend).await;
        let json = |args: &[&str]| {
            let output = run(&database, &[args, &["--json"]].concat());
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        };
        let made =
            json(&["app", "create", "work-buddy", "--name", "Work Buddy", "--icon-url", "https://x.example/i.png"]);
        assert!(made["api_key"].as_str().unwrap().starts_with("ohk_"));
        assert_eq!(run(&database, &["app", "create", "work-buddy", "--name", "again"]).status.code(), Some(1));
        assert_eq!(json(&["app", "list"])["apps"][0]["name"], "Work Buddy");
        let key = json(&["key", "create", "work-buddy"]);
        assert_eq!(json(&["key", "list", "work-buddy"])["keys"].as_array().unwrap().len(), 2);
        json(&["key", "revoke", key["key_id"].as_str().unwrap()]);
        assert!(!json(&["key", "list", "work-buddy"])["keys"][1]["revoked_at"].is_null());
        json(&["app", "disable", "work-buddy"]);
        assert_eq!(json(&["app", "list"])["apps"][0]["is_active"], false);
        for args in [["app", "disable", "none"], ["key", "create", "none"], ["key", "list", "none"]] {
            let output = run(&database, &args);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), said.contains("none")), (Some(1), true), "{args:?}: {said}");
        }
        let owner = ["migrate", "--database-url", &database.owner_url];
        let (epoch, masked) = (json(&owner)["epoch"].clone(), json(&owner)["store"].clone());
        assert_eq!(json(&owner), serde_json::json!({"store": masked, "applied": [], "epoch": epoch}));
        assert_ne!(json(&[&owner[..], &["--new-epoch"]].concat())["epoch"], epoch);
        // `migrate` runs without the hub's secrets.
        let output = bare(database.folder.path(), &owner).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn a_watcher_resumes_over_a_restart_of_the_hub() {
    let database = Database::new(Backend::Sqlite).await;
    let hub = HubProcess::start(&database, &[]).await;
    let app = create_app(&database, hub.addr, "a", false);
    let addr = hub.addr;
    let mut watcher = command(&database, &["watch", "--url", &format!("http://{addr}"), "notification.*"])
        .env("ORIVA_HUB_TOKEN", &app.key)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut frames = BufReader::new(watcher.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    assert_eq!(frames.by_ref().nth(1).unwrap()["type"], "subscribed");
    app.publish("alice", "1").await;
    app.publish("alice", "2").await;
    let mut events = |count: usize| -> Vec<u64> {
        let events = frames.by_ref().filter(|frame| frame["type"] == "event").take(count);
        events.map(|frame| frame["offset"].as_u64().unwrap()).collect()
    };
    assert_eq!(events(2), [1, 2]);
    hub.kill();
    let restarted = start_at(&database, addr).await;
    for n in 3..10 {
        app.publish("alice", n).await;
    }
    assert_eq!(events(7), (3..=9).collect::<Vec<_>>());
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    drop(restarted);

    let hub = start_at(&database, addr).await;
    let url = format!("http://{}", hub.addr);
    let refused = command(&database, &["watch", "--url", &url, "--token", "x", "*"]).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), said.contains("4001")), (Some(1), true), "{said}");
    let refused = command(&database, &["watch", "--url", &format!("{url}/api"), "--token", "x", "*"]).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(
        said,
        "oriva-hub: refused with HTTP 404 Not Found: there is no route at this address; GET /docs shows all there are\n"
    );
}

#[tokio::test]
async fn health_says_whether_a_node_takes_requests() {
    let database = Database::new(Backend::Sqlite).await;
    let hub = HubProcess::start(&database, &[("ORIVA_HUB__SERVER__SHUTDOWN_TIMEOUT_SECONDS", "10")]).await;
    let app = create_app(&database, hub.addr, "a", false);
    let url = format!("http://{}", hub.addr);
    // Needs neither settings nor a store.
    let folder = tempfile::TempDir::new().unwrap();
    let health = |args: &[&str]| {
        let output = bare(folder.path(), &[&["health"], args].concat()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(health(&["--url", &url]), (Some(0), "ready\n".to_owned(), String::new()));
    assert_eq!(health(&["--url", &format!("{url}/"), "--json"]).1, "{\"status\":\"ready\"}\n");
    let (code, _, said) = health(&["--url", &format!("{url}/api")]);
    assert!(code == Some(1) && said.contains("HTTP 404") && said.contains("--url"), "{said}");

    let mut sockets = Vec::new();
    for n in 0..400 {
        sockets.push(app.connect(&format!("user-{n}")).await);
    }
    hub.signal("-TERM");
    let draining = (Some(1), String::new(), "oriva-hub: unavailable: draining\n".to_owned());
    eventually("draining", async || health(&["--url", &url]) == draining).await;
    drop(sockets);
    assert_eq!(hub.exit_code().await, Some(0));
    let (code, _, said) = health(&["--url", &url]);
    assert!(code == Some(1) && said.contains("refused"), "{said}");

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, _, said) = health(&["--timeout", "1", "--url", &format!("http://{}", silent.local_addr().unwrap())]);
    assert!(code == Some(1) && said.contains("timed out"), "{said}");
    for url in ["localhost:8080", "ftp://localhost", "http://"] {
        let (code, _, said) = health(&["--url", url]);
        assert!(code == Some(2) && said.contains("--url"), "{url}: {said}");
    }
}

#[tokio::test]
async fn an_embedded_store_is_served_by_one_hub() {
    let database = Database::new(Backend::Sqlite).await;
    let hub = HubProcess::start(&database, &[]).await;
    let output = command(&database, &["serve", "--bind", "127.0.0.1:0"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("is served by another hub"), "{said}");
    let app = create_app(&database, hub.addr, "a", false);
    assert_eq!(app.post(&App::event("alice", "1")).await.status, 200);
    hub.kill();
    HubProcess::start(&database, &[]).await;
}

async fn start_at(database: &Database, addr: std::net::SocketAddr) -> HubProcess {
    HubProcess::start_at(database, addr, &[]).await
}

#[test]
fn a_package_gets_completions_and_a_manual_from_the_program() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_oriva-hub")).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("oriva-hub"), "{shell}");
    }
    let manual = run(&["man"]);
    assert!(manual.starts_with(".ie") || manual.contains(".TH oriva-hub 1"), "{manual}");
    assert!(manual.contains("archive") && manual.contains("ORIVA_HUB__SERVER__BIND") && manual.contains("Exit status"));
    let folder = tempfile::TempDir::new().unwrap();
    assert_eq!(run(&["man", "--dir", folder.path().to_str().unwrap()]), "");
    for page in ["oriva-hub", "oriva-hub-serve", "oriva-hub-app-create"] {
        assert!(folder.path().join(format!("{page}.1")).exists(), "{page}");
    }
    let version = run(&["--version"]);
    assert!(version.starts_with(concat!("oriva-hub ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
}

/// systemd itself checks the unit.
#[test]
fn the_systemd_unit_is_one() {
    let folder = tempfile::TempDir::new().unwrap();
    let unit = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/oriva-hub.service")).unwrap();
    let unit = unit.replace("/usr/bin/oriva-hub", env!("CARGO_BIN_EXE_oriva-hub"));
    let path = folder.path().join("oriva-hub.service");
    std::fs::write(&path, unit).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&path).output();
    let output = output.expect("systemd-analyze: run the tests with ./scripts/test");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
