//! Metrics (contract §8), in a process of its own, because a process has one recorder.

use std::collections::BTreeMap;

use oriva_hub_actors::metric_names;

use crate::harness::{Backend, Database, HubProcess, Receiver, eventually, process::create_app};

/// The samples of a scrape: name with labels → value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

async fn scrape(hub: &HubProcess) -> String {
    let answer = reqwest::get(format!("http://{}/metrics", hub.addr)).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()),
        (200, "text/plain; version=0.0.4")
    );
    answer.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_measured() {
    let database = Database::new(Backend::Sqlite).await;
    let hub = HubProcess::start(&database, &[("ORIVA_HUB__WEBHOOKS__ALLOW_HTTP", "true")]).await;
    let app = create_app(&database, hub.addr, "work-buddy", false);
    let receiver = Receiver::start().await;
    app.webhook(&receiver.url("/ok"), &["**"]).await;
    let mut socket = app.connect("alice").await;
    socket.subscribe(&["**"]).await;
    for n in 0..3 {
        app.publish("alice", n).await;
        socket.offset().await;
    }
    app.post(&serde_json::json!({"nonsense": true})).await;
    let odd = reqwest::Method::from_bytes(b"BREW").unwrap();
    reqwest::Client::new().request(odd, format!("http://{}/secret-path", hub.addr)).send().await.unwrap();
    eventually("three deliveries", async || receiver.received().len() == 3).await;
    eventually("the attempts are measured", async || {
        samples(&scrape(&hub).await).get("oriva_webhook_attempt_duration_seconds_count{outcome=\"delivered\"}")
            == Some(&3.0)
    })
    .await;

    let text = scrape(&hub).await;
    let samples = samples(&text);
    let requests = |status: u16| {
        let labels = format!("{{method=\"POST\",route=\"/api/v1/apps/{{app_id}}/events\",status=\"{status}\"}}");
        samples.get(&format!("oriva_http_request_duration_seconds_count{labels}")).copied()
    };
    assert_eq!((requests(200), requests(400)), (Some(3.0), Some(1.0)), "{text}");
    for (name, value) in [
        ("oriva_sockets", 1.0),
        ("oriva_sessions", 1.0),
        ("oriva_streams_opened_total", 1.0),
        ("oriva_bus_state{state=\"none\"}", 1.0),
        ("oriva_bus_state{state=\"connected\"}", 0.0),
        ("oriva_delivery_latency_seconds_count", 3.0),
        ("oriva_writer_queue_events", 0.0),
        ("oriva_webhook_deliveries_in_flight", 0.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name}\n{text}");
    }
    assert!(samples["oriva_frames_sent_total"] >= 5.0 && samples["oriva_writer_commit_duration_seconds_count"] >= 3.0);
    assert!(samples.contains_key("oriva_worker_last_success_timestamp_seconds{worker=\"archiver\"}"), "{text}");
    assert!(text.contains("method=\"other\",route=\"none\",status=\"404\""), "no label of a client's making");
    assert!(!text.contains("secret-path") && !text.contains("alice"));
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(|rest| rest.split(' ').next().unwrap())
    {
        assert!(metric_names::ALL.iter().any(|measure| measure.name == name), "{name} is not in the list");
    }
}

#[test]
fn the_operators_guide_names_every_measure() {
    let guide = include_str!("../../docs/OPERATING.md");
    for measure in metric_names::ALL {
        assert!(guide.contains(&format!("`{}`", measure.name)), "docs/OPERATING.md says nothing of {}", measure.name);
    }
}

/// Names of metrics in a text, without the suffixes of histograms.
fn named(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("oriva_"));
    let base = |word: &str| {
        ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
    };
    words.map(base).collect()
}

#[test]
fn dashboard_and_alerts_ask_for_what_there_is_and_show_all_of_it() {
    let dashboard: serde_json::Value = serde_json::from_str(include_str!("../../packaging/grafana.json")).unwrap();
    let shown = named(&dashboard["panels"].to_string());
    for name in shown.iter().chain(&named(include_str!("../../packaging/alerts.yml"))) {
        assert!(metric_names::ALL.iter().any(|measure| measure.name == name), "{name} is not measured");
    }
    for measure in metric_names::ALL {
        assert!(shown.iter().any(|name| name == measure.name), "the dashboard does not show {}", measure.name);
    }
}
