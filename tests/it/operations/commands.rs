//! `publish`, `notify`, `doctor` and `config check`: what operators and developers type.

use std::{
    io::{Read as _, Write as _},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::{
    harness::{
        App, Backend, Database, HubProcess, PostgresServer, RedisServer,
        process::{command, create_app},
    },
    on_both_stores,
};

on_both_stores!(an_event_and_a_notification_from_the_shell, many_lines_go_as_batches);

/// A command of an app, with nothing of this process's environment.
fn as_app(app: &App, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oriva-hub"));
    command.args(args).env_clear().env("ORIVA_HUB_TOKEN", &app.key).env("ORIVA_HUB_APP", &app.id);
    command.args(["--url", &format!("http://{}", app.addr)]);
    command
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn with_input(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

async fn an_event_and_a_notification_from_the_shell(backend: Backend) {
    let database = Database::new(backend).await;
    let hub = HubProcess::start(&database, &[]).await;
    let app = create_app(&database, hub.addr, "a", false);
    let publish = ["publish", "--user", "alice", "--type", "session.started", "--entity", "session:s:1"];
    let with_key = [&publish[..], &["--data", r#"{"n": 1}"#, "--idempotency-key", "k", "--json"]].concat();
    let (code, first, _) = said(&as_app(&app, &with_key).output().unwrap());
    assert_eq!(code, Some(0));
    let (_, again, _) = said(&as_app(&app, &with_key).output().unwrap());
    assert_eq!(first, again, "once for its key");
    let (_, plain, _) = said(&as_app(&app, &publish).output().unwrap());
    assert!(plain.trim_end().ends_with("offset 2"), "{plain}");
    let events = app.events("").await.body;
    assert_eq!((&events["total"], &events["events"][1]["entity_id"]), (&json!(2), &json!("s:1")));
    assert_eq!(events["events"][1]["event_data"], json!({"n": 1}));
    let (code, _, _) =
        said(&as_app(&app, &["publish", "--broadcast", "--type", "a.b", "--entity", "t:1"]).output().unwrap());
    assert_eq!(code, Some(1), "there is no category a");

    let notify = ["notify", "--user", "alice", "--title", "Lunch?", "--body", "At noon", "--priority", "high"];
    let (code, id, _) = said(&as_app(&app, &notify).output().unwrap());
    assert_eq!(code, Some(0));
    assert_eq!(app.inbox("alice").get(id.trim()).await.body["priority"], "high");

    for (args, part) in [
        (&["publish", "--user", "alice"][..], "HTTP 400: event_category"),
        (&["publish", "--type", "nodot"], "--type \"nodot\" must be CATEGORY.TYPE"),
        (&["publish", "--data", "[1]"], "--data must be a JSON object"),
        (&["notify", "--title", ""], "title"),
    ] {
        let (code, _, why) = said(&as_app(&app, args).output().unwrap());
        assert!(code != Some(0) && why.contains(part), "{args:?}: {why}");
    }
    let stranger = App::new(hub.addr, "b", &app.key);
    let (code, _, why) = said(&as_app(&stranger, &notify).output().unwrap());
    assert!(code == Some(1) && why.contains("HTTP 40"), "{why}");
}

async fn many_lines_go_as_batches(backend: Backend) {
    let database = Database::new(backend).await;
    let hub = HubProcess::start(&database, &[]).await;
    let app = create_app(&database, hub.addr, "a", false);
    let mut lines = String::new();
    for n in 0..2500 {
        // Not one line in a thousand is right in every stream of a shell.
        let user = if n == 1700 { json!(17) } else { json!("alice") };
        let mut event = App::event("alice", n);
        event["user_id"] = user;
        lines += &format!("{event}\n");
    }
    let (code, out, why) = said(&with_input(as_app(&app, &["publish"]), &lines));
    assert_eq!((code, &*out), (Some(1), "2499 accepted, 1 refused\n"), "{why}");
    assert!(why.contains("line 1701: ") && why.contains("user_id"), "{why}");
    assert_eq!(app.events("?limit=1").await.body["total"], 2499);

    let lines: Vec<String> = (0..3).map(|n| App::notification("bob", n).to_string()).collect();
    let twice =
        || with_input(as_app(&app, &["notify", "--idempotency-key", "k", "--json"]), &(lines.join("\n") + "\n"));
    for _ in 0..2 {
        let (code, out, _) = said(&twice());
        assert_eq!(
            (code, serde_json::from_str::<Value>(&out).unwrap()),
            (Some(0), json!({"accepted": 3, "refused": 0}))
        );
    }
    assert_eq!(app.inbox("bob").unread().await, 3);
    let (code, _, why) = said(&with_input(as_app(&app, &["publish"]), "{\"a\": 1}\nnonsense\n"));
    assert!(code == Some(1) && why.contains("standard input, line 2"), "{why}");
    let mut broken = lines.join("\n\n");
    broken += "\nnonsense\n";
    let (code, out, why) = said(&with_input(as_app(&app, &["notify"]), &broken));
    assert_eq!((code, &*out), (Some(1), "3 accepted, 0 refused\n"), "those before it are sent: {why}");
    assert!(why.contains("line 6") && why.contains("was not sent"), "{why}");
}

/// A request that is sent elsewhere would become another one, with the key.
#[test]
fn a_redirect_is_no_answer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let app = App::new(listener.local_addr().unwrap(), "a", "key");
    let answering = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        assert!(socket.read(&mut [0; 4096]).unwrap() > 0);
        socket.write_all(b"HTTP/1.1 301 Moved\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let publish = ["publish", "--user", "alice", "--type", "session.started", "--entity", "session:1"];
    let (code, out, why) = said(&as_app(&app, &publish).output().unwrap());
    assert_eq!((code, &*out), (Some(1), ""), "{why}");
    assert!(why.contains("HTTP 301"), "{why}");
    answering.join().unwrap();
}

/// Numbers keep their digits, from flags and from lines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_stays_as_it_is_written() {
    let database = Database::new(Backend::Sqlite).await;
    let hub = HubProcess::start(&database, &[]).await;
    let app = create_app(&database, hub.addr, "a", false);
    let data = r#"{"z":1.0,"a":12345678901234567890123,"m":1e2}"#;
    let publish = ["publish", "--user", "alice", "--type", "session.started", "--entity", "session:1", "--data", data];
    assert_eq!(said(&as_app(&app, &publish).output().unwrap()).0, Some(0));
    let line = App::event("alice", 2).to_string();
    let (before, after) = line.split_once("{\"n\":1}").expect("the data");
    let line = format!("{before}{data}{after}");
    let (code, _, why) = said(&with_input(as_app(&app, &["publish"]), &format!("\u{feff}{line}\n")));
    assert_eq!(code, Some(0), "{why}");
    let request = reqwest::Client::new().get(format!("http://{}/api/v1/apps/a/events", app.addr)).bearer_auth(&app.key);
    let events = request.send().await.unwrap().text().await.unwrap();
    assert_eq!(events.matches(data).count(), 2, "{events}");
}

/// Batches become as small as the app's budget, and a line does not wait for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_fit_the_budget_and_the_pace() {
    let database = Database::new(Backend::Sqlite).await;
    let small =
        [("ORIVA_HUB__RATE_LIMITS__NOTIFY__LIMIT", "100"), ("ORIVA_HUB__RATE_LIMITS__NOTIFY__WINDOW_SECONDS", "1")];
    let hub = HubProcess::start(&database, &small).await;
    let app = create_app(&database, hub.addr, "a", false);
    let lines: String = (0..250).map(|n| format!("{}\n", App::notification("bob", n))).collect();
    let (code, out, why) = said(&with_input(as_app(&app, &["notify"]), &lines));
    assert_eq!((code, &*out), (Some(0), "250 accepted, 0 refused\n"), "{why}");
    assert_eq!(app.inbox("bob").unread().await, 250);

    let mut publish = as_app(&app, &["publish"]);
    let mut child = publish.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", App::event("alice", 1)).unwrap();
    crate::harness::eventually("it is there", async || app.events("?limit=1").await.body["total"] == 251).await;
    writeln!(input, "{}", App::event("alice", 2)).unwrap();
    crate::harness::eventually("and the next", async || app.events("?limit=1").await.body["total"] == 252).await;
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let (code, out, why) = said(&child.wait_with_output().unwrap());
    assert_eq!((code, &*out), (Some(1), "2 accepted, 0 refused\n"), "{why}");
    assert!(why.contains("interrupted"), "{why}");
}

/// A hub that restarts while lines are sent costs none, and repeats none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_outlive_a_restart() {
    let database = Database::new(Backend::Sqlite).await;
    let hub = HubProcess::start(&database, &[]).await;
    let (addr, app) = (hub.addr, create_app(&database, hub.addr, "a", false));
    let mut publish = as_app(&app, &["publish"]);
    let mut child = publish.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        for n in 0..20_000 {
            writeln!(input, "{}", App::event("alice", n)).unwrap();
        }
    });
    crate::harness::eventually("some are there", async || {
        app.events("?limit=1").await.body["total"].as_u64() > Some(1000)
    })
    .await;
    hub.kill();
    let _hub = HubProcess::start_at(&database, addr, &[]).await;
    writer.join().unwrap();
    let (code, out, why) = said(&child.wait_with_output().unwrap());
    assert_eq!((code, &*out), (Some(0), "20000 accepted, 0 refused\n"), "{why}");
    let mut socket = app.connect_app().await;
    let (events, _) = socket.resume(0).await;
    let entities: Vec<String> = events.iter().map(|event| event["entity_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(entities, (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// The findings of `doctor --json`, as `what: verdict: says`.
fn findings(database: &Database, args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, Vec<String>) {
    let output = command(database, &[&["doctor", "--json"], args].concat()).envs(env.iter().copied()).output().unwrap();
    let (code, out, why) = said(&output);
    let body: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out} {why}"));
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let lines = body["findings"].as_array().unwrap().iter();
    (code, lines.map(|one| format!("{}: {}: {}", text(one, "what"), text(one, "verdict"), text(one, "says"))).collect())
}

fn has(findings: &[String], beginning: &str) -> bool {
    findings.iter().any(|finding| finding.starts_with(beginning))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_looks_at_what_a_hub_needs() {
    let embedded = Database::new(Backend::Sqlite).await;
    let (code, found) = findings(&embedded, &[], &[]);
    assert!(code == Some(0) && found.iter().any(|one| one.contains("will be made at the first start")), "{found:?}");
    let hub = HubProcess::start(&embedded, &[]).await;
    let (code, found) = findings(&embedded, &["--url", &format!("http://{}", hub.addr)], &[]);
    assert!(
        code == Some(0) && has(&found, "store: good: SQLite 3.") && has(&found, "address: good: 127.0.0.1"),
        "{found:?}"
    );
    drop(hub);

    let server = PostgresServer::start().await;
    let mut database = Database::on(&server).await;
    let redis = RedisServer::start().await;
    let url = redis.url();
    let (code, found) = findings(&database, &[], &[("REDIS_URL", &url)]);
    assert_eq!(code, Some(0), "{found:?}");
    for beginning in [
        "store: good: PostgreSQL 1",
        "store: warning: fsync is off",
        "clock: good: ",
        "redis: good: Redis ",
        "secrets: good: ",
    ] {
        assert!(has(&found, beginning), "{beginning}: {found:?}");
    }
    // As the schema's owner, with more connections than there are, and a Redis that forgets.
    let hub_url = std::mem::replace(&mut database.url, server.url_of("postgres", "hub"));
    redis.cli(&["config", "set", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru"]);
    let many = ("ORIVA_HUB__DATABASE__MAX_CONNECTIONS", "500");
    let (code, found) = findings(&database, &[], &[("REDIS_URL", &url), many]);
    assert_eq!(code, Some(0), "{found:?}");
    for part in ["overrides row level security", "connections are free, and a hub wants 500", "allkeys-lru"] {
        assert!(found.iter().any(|one| one.contains("warning") && one.contains(part)), "{part}: {found:?}");
    }
    // What is bad is said, each for itself, and all of it.
    database.url = hub_url;
    redis.cli(&["acl", "setuser", "default", "-hscan"]);
    server.sql("alter system set default_transaction_read_only = on; select pg_reload_conf()").await;
    crate::harness::eventually("it is read-only", async || {
        let (code, found) = findings(&database, &["--url", "http://127.0.0.1:1"], &[("REDIS_URL", &url)]);
        assert!(has(&found, "redis: bad: HSCAN fails") && has(&found, "address: bad: 127.0.0.1"), "{found:?}");
        code == Some(1) && has(&found, "store: bad: the database takes no writes")
    })
    .await;
    // The same for CI.
    let check = command(&database, &["config", "check", "--connect"]).output().unwrap();
    let (code, out, _) = said(&check);
    assert!(code == Some(1) && out.contains("BAD     store"), "{out}");
}

/// Settings that lead to a hub that nobody meant.
#[test]
fn what_nobody_means_is_refused() {
    let folder = tempfile::TempDir::new().unwrap();
    let check = |env: &[(&str, &str)], args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oriva-hub"));
        command.args(["config", "check"]).args(args).env_clear().current_dir(folder.path()).envs(env.iter().copied());
        let (code, _, why) = said(&command.output().unwrap());
        (code, why)
    };
    let file = folder.path().join("secret");
    std::fs::write(&file, "a token secret of at least 32 characters\n").unwrap();
    let file = file.to_str().unwrap();
    std::fs::write(folder.path().join("bad.toml"), "[auth]\nadmin_key = \"hunter2\nx = 1\n").unwrap();
    std::fs::write(folder.path().join("number.toml"), "[auth]\nadmin_key = 31337\n").unwrap();
    for (env, args, part) in [
        (&[("DATABASE_URL", "")][..], &[][..], "DATABASE_URL is empty"),
        (&[("DATABASE_URL_FILE", "")], &[], "DATABASE_URL_FILE is empty"),
        (&[("ORIVA_HUB__DATABASE__URL", "")], &[], "ORIVA_HUB__DATABASE__URL is empty"),
        (&[("REDIS_URL", "redis://cache")], &[], "database.url is SQLite"),
        (&[("REDIS_URL", "redis://cache"), ("DATABSE_URL", "postgres://db/hub")], &[], "database.url is SQLite"),
        (&[("ORIVA_HUB__SERVER__BIND", "localhost:8080")], &[], "for localhost write 127.0.0.1:8080"),
        (&[("ORIVA_HUB__SERVER__BIND", "8080")], &[], "must be an IP address and a port"),
        (&[("ORIVA_HUB__SERVER__BIND", ":8080")], &[], "must be an IP address and a port"),
        (&[("ORIVA_HUB__SERVER__BIND", "::1:8080")], &[], "[::1]:8080"),
        (&[("ORIVA_HUB__SERVER__BIND", "unix:/run/hub.sock")], &[], "must be an IP address and a port"),
        (
            &[("ORIVA_HUB__AUTH__TOKEN_SECRET_FILE", "/none")],
            &[],
            "ORIVA_HUB__AUTH__TOKEN_SECRET_FILE: /none: No such file",
        ),
        (&[("ORIVA_HUB__AUTH__TOKEN_SECRET_FILE", file), ("ORIVA_HUB__AUTH__TOKEN_SECRET", "x")], &[], "are both set"),
        (&[("DATABASE_URL", "postgres://db/hub?sslpassword=hunter2")], &[], "\"sslpassword\" is not supported"),
        (&[], &["--config", "bad.toml"], "bad.toml"),
        (&[], &["--config", "number.toml"], "auth.admin_key: must be"),
    ] {
        let (code, why) = check(env, args);
        assert_eq!(code, Some(2), "{env:?}: {why}");
        assert!(why.contains(part) && why.lines().count() == 1, "{env:?} {args:?}: {why}");
        assert!(!why.contains("hunter2") && !why.contains("31337"), "{why}");
    }
    assert_eq!(check(&[("ORIVA_HUB__AUTH__TOKEN_SECRET_FILE", file)], &[]).0, Some(0));
    assert!(!folder.path().join("data").exists(), "checking writes nothing");
}
