//! `docs/START_GUIDE.md`, followed from top to bottom: its blocks run as they stand.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::harness::{App, Backend, Receiver, TestHub, eventually};

const GUIDE: &str = include_str!("../../docs/START_GUIDE.md");

/// The guide's blocks whose fence says `what`.
fn blocks(what: &str) -> Vec<&'static str> {
    let fence = format!("```{what}\n");
    GUIDE.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_can_be_followed() {
    let hub = TestHub::start_with(Backend::Sqlite, |config| config.webhooks.allow_http = true).await;
    // The first start made the app; its key was printed where no test reads.
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
        // A program that does not read its input ends before it is written.
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

    let python = std::env::var("ORIVA_TEST_PYTHON").expect("ORIVA_TEST_PYTHON: run the tests with ./scripts/test");
    let stream = tokio::task::block_in_place(|| run(&python, &["-c", blocks("python stream")[0]], &[], b""));
    let frames = String::from_utf8_lossy(&stream.stdout).into_owned();
    assert!(
        frames.contains("event transaction.order.shipped 1") && frames.contains("event notification.dismissed 3"),
        "{frames}{}",
        String::from_utf8_lossy(&stream.stderr)
    );

    // Something to verify, with characters that are more than one byte.
    app.notify(&App::notification("alice", "Grüße ☀")).await;
    eventually("it is delivered", async || receiver.received().len() >= 2).await;
    let secret: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("webhook.json")).unwrap()).unwrap();
    let secret = secret["webhook_secret"].as_str().unwrap();
    let request =
        receiver.received().into_iter().find(|request| request.body["event_type"] == "notification.created").unwrap();
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
