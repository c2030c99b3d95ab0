//! Follows `docs/START_GUIDE.md` from top to bottom: runs its code blocks as they stand.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
};

use serde_json::json;

use crate::harness::{App, Backend, Browser, Received, Receiver, TestHub, eventually, process::free_addr};

const GUIDE: &str = include_str!("../../docs/START_GUIDE.md");

/// The guide's code blocks with the language `what`.
fn blocks(what: &str) -> Vec<&'static str> {
    let fence = format!("```{what}\n");
    GUIDE.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_can_be_followed() {
    let hub = TestHub::start_with(Backend::Sqlite, |config| config.webhooks.allow_http = true).await;
    // The first start created an app, but printed its key where the test cannot read it.
    let key = hub.admin("POST", "/api/v1/admin/apps/demo/keys", None).await;
    let app = App::new(hub.addr, "demo", key.body["api_key"].as_str().unwrap());
    let receiver = Receiver::start().await;
    let folder = tempfile::TempDir::new().unwrap();
    let shell = blocks("bash").join("\n");
    assert!(blocks("bash").len() >= 6);
    let run = |program: &str, args: &[&str], env: &[(&str, &str)], input: &[u8]| {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.env("HUB", format!("http://{}", hub.addr)).env("APP", &app.id).env("KEY", &app.key);
        command.env("ENDPOINT", receiver.url("/ok")).envs(env.iter().copied());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; run the tests with ./scripts/test"));
        // Writing fails if the program ends without reading its input.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    };

    let output = tokio::task::block_in_place(|| run("bash", &["-euo", "pipefail", "-c", &shell], &[], b""));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for expected in [
        r#""offset":1"#,
        r#""title":"Your order is on its way""#,
        r#""unread":1"#,
        r#""status":"dismissed""#,
        r#""success":true"#,
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }

    let node = tokio::task::block_in_place(|| {
        // Debian installs libraries here, `ws` among them.
        run("node", &["-e", blocks("js stream")[0]], &[("NODE_PATH", "/usr/share/nodejs")], b"")
    });
    let python = std::env::var("ORIVA_TEST_PYTHON").expect("ORIVA_TEST_PYTHON: run the tests with ./scripts/test");
    let stream = tokio::task::block_in_place(|| run(&python, &["-c", blocks("python stream")[0]], &[], b""));
    for stream in [node, stream] {
        let frames = String::from_utf8_lossy(&stream.stdout).into_owned();
        assert!(
            frames.contains("event transaction.order.shipped 1") && frames.contains("event notification.dismissed 3"),
            "{frames}{}",
            String::from_utf8_lossy(&stream.stderr)
        );
    }

    // A body to verify, with characters of more than one byte.
    app.notify(&App::notification("alice", "Grüße ☀")).await;
    let is_greeting = |request: &Received| request.body["event_data"]["title"] == "Grüße ☀";
    eventually("it is delivered", async || receiver.received().iter().any(is_greeting)).await;
    let secret: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("webhook.json")).unwrap()).unwrap();
    let secret = secret["webhook_secret"].as_str().unwrap();
    let request = receiver.received().into_iter().find(is_greeting).unwrap();
    assert_eq!(request.body["app_id"], json!("demo"));
    let signature = request.header("x-oriva-signature").to_owned();
    for (language, program, args) in [
        ("python verify", python.as_str(), &["-c"][..]),
        ("js verify", "node", &["-e"]),
        ("ruby verify", "ruby", &["-e"]),
        ("php verify", "php", &["-r"]),
    ] {
        let block = blocks(language);
        let code = block[0].trim_start_matches("<?php\n");
        let args: Vec<&str> = args.iter().copied().chain([code]).collect();
        let verify = |signature: &str, body: &[u8]| {
            let env = [("SECRET", secret), ("SIGNATURE", signature)];
            let output = tokio::task::block_in_place(|| run(program, &args, &env, body));
            assert!(output.stderr.is_empty(), "{language}: {}", String::from_utf8_lossy(&output.stderr));
            output.status.code()
        };
        assert_eq!(verify(&signature, &request.raw), Some(0), "{language}");
        let mut forged = request.raw.clone();
        forged[10] ^= 1;
        assert_eq!(verify(&signature, &forged), Some(1), "{language}");
        assert_eq!(verify("sha256=00", &request.raw), Some(1), "{language}");
    }
}

/// A program that is killed at the end of its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The guide's webhook receiver prints what the hub sends, and rejects what somebody else sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guides_receiver_hears_the_hub() {
    let hub = TestHub::start_with(Backend::Sqlite, |config| config.webhooks.allow_http = true).await;
    let app = hub.app("shop").await;
    let addr = free_addr();
    let program = blocks("python receiver")[0].replace("9000", &addr.port().to_string());
    let webhook = app.webhook(&format!("http://{addr}/hook"), &["notification.*"]).await;
    let python = std::env::var("ORIVA_TEST_PYTHON").expect("ORIVA_TEST_PYTHON: run the tests with ./scripts/test");
    let mut receiver = Command::new(python)
        .args(["-c", &program])
        .env("SECRET", webhook["webhook_secret"].as_str().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(receiver.stdout.take().unwrap()).lines();
    let _receiver = Ended(receiver);
    let mut said = || tokio::task::block_in_place(|| lines.next().unwrap().unwrap());
    eventually("it listens", async || tokio::net::TcpStream::connect(addr).await.is_ok()).await;
    let forged = reqwest::Client::new().post(format!("http://{addr}/hook")).body("{}").send().await.unwrap();
    assert_eq!(forged.status(), 401);
    assert_eq!(said(), "not from the hub");
    app.notify(&App::notification("alice", "Grüße ☀")).await;
    let line: serde_json::Value = serde_json::from_str(&said()).unwrap();
    assert_eq!(line["event_type"], "notification.created");
}

/// The guide's browser program gets present events, and those that came while it was disconnected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guides_browser_misses_nothing() {
    let hub = TestHub::start(Backend::Sqlite).await;
    let app = hub.app("shop").await;
    let console = Receiver::start().await;
    // The first token expires soon, so the browser must reconnect with the second.
    let tokens = json!([app.token_for("alice", 3).await, app.token("alice").await]);
    let page = format!(
        r#"<script>
        console.log = (...said) => fetch("{console}", {{ method: "POST", mode: "no-cors", body: JSON.stringify(said) }});
        const tokens = {tokens};
        {program}
        connect("http://{hub}", async () => {{
          console.log("token", tokens.length);
          return tokens.length > 1 ? tokens.shift() : tokens[0];
        }});
        </script>"#,
        console = console.url("/ok"),
        program = blocks("js browser")[0],
        hub = hub.addr,
    );
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("page.html");
    std::fs::write(&file, page).unwrap();
    let _browser = Browser::open(&format!("file://{}", file.display()));

    let said = |kind: &str| -> Vec<serde_json::Value> {
        let lines = console.received().into_iter().map(|request| request.body);
        lines.filter(|line| line[0] == kind).map(|line| line[1].clone()).collect()
    };
    // From its first connection to its second.
    let mut sent = Vec::new();
    eventually("the browser comes back with a new token", async || {
        sent.push(json!(app.notify(&App::notification("alice", "Lunch?")).await));
        said("token").len() >= 2
    })
    .await;
    let last = json!(app.notify(&App::notification("alice", "Dinner?")).await);
    sent.push(last.clone());
    let ids =
        || -> Vec<_> { said("notification.created").iter().map(|data| data["notification_id"].clone()).collect() };
    eventually("the last notification", async || ids().contains(&last)).await;
    // The page sends each log line as a request of its own, so they may arrive in another order.
    eventually("all of them", async || {
        let (got, first) = (ids(), sent.iter().position(|id| ids().contains(id)).unwrap());
        sent[first..].iter().all(|id| got.contains(id))
    })
    .await;
    let mut got = ids();
    got.sort_by_key(|id| sent.iter().position(|sent| sent == id));
    got.dedup();
    assert_eq!(got.len(), ids().len(), "nothing comes twice");
}
