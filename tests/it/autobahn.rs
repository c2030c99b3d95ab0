//! The Autobahn cases (RFC 6455 conformance), run by the PyPI package `kosoku` against an echo endpoint that only a
//! test build has.

use std::process::Command;

use crate::harness::{Backend, TestHub};

/// One compression case for each kind of offer and of data, with messages of 16 bytes to 128 KiB; to repeat them a
/// hundred times
/// would add minutes. Other cases are left out because this version of the tool fails ("Strings must be encoded before
/// hashing").
const CASES: [&str; 17] = [
    "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*", "12.1.3", "12.1.5", "12.1.12", "12.4.4", "13.1.5",
    "13.2.6", "13.5.8", "13.7.12",
];
/// Offers that ask the hub for a smaller window, which it ignores.
const PASSED_OVER: [&str; 1] = ["13.5.8"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_autobahn_cases_pass() {
    let kosoku = std::env::var("ORIVA_TEST_KOSOKU").expect("ORIVA_TEST_KOSOKU: run the tests with ./scripts/test");
    // The limits and performance cases send messages of up to 16 MiB.
    let hub = TestHub::start_with(Backend::Sqlite, |config| {
        config.stream.max_frame_bytes = 16 * 1024 * 1024;
        config.stream.max_backlog_bytes = 64 * 1024 * 1024;
    })
    .await;
    let reports = tempfile::TempDir::new().unwrap();
    let mut command = Command::new(kosoku);
    command.args(["-m", "fuzzingclient", &format!("ws://{}/test/echo", hub.addr), "-p", "2", "-o"]).arg(reports.path());
    for case in CASES {
        command.args(["-i", case]);
    }
    let output = tokio::task::spawn_blocking(move || command.output().expect("kosoku runs")).await.unwrap();
    let index = std::fs::read_to_string(reports.path().join("index.json")).expect("a report");
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let cases: Vec<_> = index
        .as_object()
        .unwrap()
        .values()
        .flat_map(|agent| agent.as_object().unwrap().iter())
        .map(|(case, result)| (case.clone(), result["behavior"].to_string(), result["behaviorClose"].to_string()))
        .collect();
    assert!(cases.len() > 305, "{} cases ran: {}", cases.len(), String::from_utf8_lossy(&output.stderr));
    let accepted = ["\"OK\"", "\"NON-STRICT\"", "\"INFORMATIONAL\""];
    let failed: Vec<_> = cases
        .iter()
        .filter(|(case, behavior, _)| !(PASSED_OVER.contains(&case.as_str()) && behavior == "\"UNIMPLEMENTED\""))
        .filter(|(_, behavior, close)| !accepted.contains(&behavior.as_str()) || !accepted.contains(&close.as_str()))
        .collect();
    let strict = cases.iter().filter(|(_, behavior, _)| behavior == "\"OK\"").count();
    println!("autobahn: {} cases, {strict} OK, the rest non-strict or informational", cases.len());
    assert!(failed.is_empty(), "{failed:?}");
}
