//! Deliveries after trouble: redelivery, recovery, killed hubs and nodes, a changed key.

use std::collections::HashSet;

use serde_json::{Value, json};
use standardwebhooks::Webhook;

use super::{PROCESS, start, start_with};
use crate::{
    harness::{App, Backend, Database, HubProcess, Receiver, callers::read, eventually, process::create_app},
    on_both_stores,
};

on_both_stores!(
    a_delivery_can_be_made_again,
    a_recovery_queues_what_was_missed,
    killed_with_deliveries_pending_every_event_arrives,
    the_encryption_key_can_be_changed,
    a_recovery_goes_on_where_it_stood,
    what_is_queued_again_during_its_last_attempt_begins_anew,
);

async fn a_delivery_can_be_made_again(backend: Backend) {
    let (_hub, app, receiver) = start(backend).await;
    let body = json!({"webhook_url": receiver.url("/switch"), "subscribed_events": ["**"], "max_retries": 1});
    let id = app.webhook_with(&body).await["webhook_id"].clone();
    app.publish("alice", "x").await;
    eventually("it is given up", async || app.deliveries(&id, "?status=failed").await.len() == 1).await;
    let delivery = app.deliveries(&id, "").await[0]["delivery_id"].as_str().unwrap().to_owned();
    receiver.heal();
    let again = app.webhook_request("POST", &id, &format!("/deliveries/{delivery}/redeliver"), None).await;
    assert_eq!((again.status, &again.body["status"]), (202, &json!("pending")));
    eventually("it arrives", async || app.deliveries(&id, "?status=succeeded").await.len() == 1).await;
    let requests = receiver.received_at("/switch");
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|one| one.header("webhook-id") == requests[0].header("webhook-id")));
    assert_eq!(app.deliveries(&id, "").await[0]["attempts"].as_array().unwrap().len(), 3);
}

async fn a_recovery_queues_what_was_missed(backend: Backend) {
    let (_hub, app, receiver) = start(backend).await;
    app.publish("alice", "too early").await;
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let since = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    for n in 0..700 {
        // Published before the webhook existed.
        if n % 100 == 0 {
            let mut other = App::event("alice", "other");
            other["event_category"] = json!("user");
            app.post(&other).await;
        }
    }
    let events: Vec<_> = (0..700).map(|n| App::event("alice", n)).collect();
    assert_eq!(read(app.request("POST", "/events/batch").json(&json!({"events": events}))).await.status, 200);
    let id = app.webhook(&receiver.url("/ok"), &["notification.*"]).await["webhook_id"].clone();
    let opened = app.webhook_request("POST", &id, "/recover", Some(json!({"since": since}))).await;
    assert_eq!((opened.status, &opened.body["status"]), (202, &json!("running")), "{}", opened.body);
    receiver.wait_for("/ok", 700).await;
    eventually("it is finished", async || {
        app.webhook_request("GET", &id, "/recover", None).await.body["status"] == "finished"
    })
    .await;
    let progress = app.webhook_request("GET", &id, "/recover", None).await.body;
    assert_eq!((&progress["queued"], &progress["remaining"]), (&json!(700), &json!(0)));
    // A second recovery queues nothing, because everything has arrived.
    app.webhook_request("POST", &id, "/recover", Some(json!({"since": since}))).await;
    eventually("it is finished again", async || {
        app.webhook_request("GET", &id, "/recover", None).await.body["status"] == "finished"
    })
    .await;
    assert_eq!(app.webhook_request("GET", &id, "/recover", None).await.body["queued"], 0);
    let ids: HashSet<_> =
        receiver.received_at("/ok").into_iter().map(|one| one.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 700);
}

/// Publishes a batch. Returns the ids of its events.
async fn publish_batch(app: &App, name: impl std::fmt::Display, count: usize) -> HashSet<String> {
    let events: Vec<_> = (0..count).map(|n| App::event("alice", format!("{name}-{n}"))).collect();
    let answer = read(app.request("POST", "/events/batch").json(&json!({"events": events}))).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let id = |event: &Value| event["event_id"].as_str().expect("an id").to_owned();
    answer.body["events"].as_array().expect("a list").iter().map(id).collect()
}

fn arrived(receiver: &Receiver) -> HashSet<String> {
    receiver.received_at("/ok").into_iter().map(|one| one.header("webhook-id").to_owned()).collect()
}

async fn killed_with_deliveries_pending_every_event_arrives(backend: Backend) {
    let (database, receiver) = (Database::new(backend).await, Receiver::start().await);
    let mut process = HubProcess::start(&database, &PROCESS).await;
    let mut app = create_app(&database, process.addr, "a", false);
    app.webhook(&receiver.url("/ok"), &["**"]).await;
    let mut expected = HashSet::new();
    for round in 0..3 {
        expected.extend(publish_batch(&app, round, 400).await);
        eventually("some arrive", async || arrived(&receiver).len() > round * 400 + 50).await;
        process.kill();
        process = HubProcess::start(&database, &PROCESS).await;
        app = app.at(process.addr);
    }
    eventually("every event arrived", async || arrived(&receiver) == expected).await;
}

/// An embedded hub is alone with its store, so what it was sending when it was killed need not wait for a lease to end.
#[actix_web::test]
async fn an_embedded_hub_goes_on_at_once_with_what_was_in_flight() {
    const LONG: (&str, &str) = ("ORIVA_HUB__WEBHOOKS__TIMEOUT_SECONDS", "60");
    let (database, receiver) = (Database::new(Backend::Sqlite).await, Receiver::start().await);
    let process = HubProcess::start(&database, &[PROCESS[0], LONG]).await;
    let app = create_app(&database, process.addr, "a", false);
    let id = app.webhook(&receiver.url("/hang"), &["**"]).await["webhook_id"].clone();
    app.publish("alice", "x").await;
    receiver.wait_for("/hang", 1).await;
    process.kill();
    let process = HubProcess::start(&database, &[PROCESS[0], LONG]).await;
    // The lease would end 65 s after the first request.
    receiver.wait_for("/hang", 2).await;
    assert_eq!(app.at(process.addr).deliveries(&id, "?status=delivering").await.len(), 1);
}

async fn the_encryption_key_can_be_changed(backend: Backend) {
    const KEY: &str = "ORIVA_HUB__AUTH__ENCRYPTION_KEY";
    const PREVIOUS: &str = "ORIVA_HUB__AUTH__PREVIOUS_ENCRYPTION_KEYS";
    const OLD: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const NEW: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let (database, receiver) = (Database::new(backend).await, Receiver::start().await);
    let process = HubProcess::start(&database, &PROCESS).await;
    let app = create_app(&database, process.addr, "a", false);
    let made = app.webhook(&receiver.url("/ok"), &["**"]).await;
    process.kill();
    // With the new key alone the secret cannot be opened: nothing is sent, and nothing is lost.
    let keys = |keys: &[(&'static str, &'static str)]| [&PROCESS[..], keys].concat();
    let process = HubProcess::start(&database, &keys(&[(KEY, NEW)])).await;
    let app = app.at(process.addr);
    app.publish("alice", "x").await;
    let test = app.webhook_request("POST", &made["webhook_id"], "/test", None).await;
    assert_eq!((test.status, test.code()), (409, "conflict"));
    eventually("it is said", async || process.log().contains("previous_encryption_keys")).await;
    // What is owed waits; it is not claimed again and again.
    eventually("it waits", async || app.deliveries(&made["webhook_id"], "?status=pending").await.len() == 1).await;
    let shown = app.webhook_request("GET", &made["webhook_id"], "", None).await.body;
    assert!(shown["warning"].as_str().unwrap().contains("rotate the secret"), "{shown}");
    for n in 0..20 {
        app.publish("alice", n).await;
    }
    let said = || process.log().matches("secret cannot be opened; its deliveries wait").count();
    eventually("they all wait", async || {
        app.deliveries(&made["webhook_id"], "?status=pending").await.len() == 21 && said() == 1
    })
    .await;
    process.kill();
    let process = HubProcess::start(&database, &keys(&[(KEY, NEW), (PREVIOUS, OLD)])).await;
    receiver.wait_for("/ok", 1).await;
    process.kill();
    let process = HubProcess::start(&database, &keys(&[(KEY, NEW)])).await;
    app.at(process.addr).publish("alice", "y").await;
    for request in receiver.wait_for("/ok", 2).await {
        let secret = made["webhook_secret"].as_str().unwrap();
        Webhook::new(secret).unwrap().verify(&request.raw, &request.headers).unwrap();
    }
}

/// A recovery comes while the last attempt of a delivery is under way, and that attempt fails.
async fn what_is_queued_again_during_its_last_attempt_begins_anew(backend: Backend) {
    let (_hub, app, receiver) = start_with(backend, |config| config.webhooks.timeout_seconds = 2).await;
    let body = json!({
        "webhook_url": receiver.url("/hang"), "subscribed_events": ["**"], "max_retries": 1, "retry_backoff_seconds": 1
    });
    let id = app.webhook_with(&body).await["webhook_id"].clone();
    let since = "2020-01-01T00:00:00Z";
    app.publish("alice", "x").await;
    receiver.wait_for("/hang", 2).await;
    let opened = app.webhook_request("POST", &id, "/recover", Some(json!({"since": since}))).await;
    assert_eq!(opened.status, 202, "{}", opened.body);
    // The second attempt was the last; after the recovery there are two more.
    receiver.wait_for("/hang", 4).await;
    let progress = app.webhook_request("GET", &id, "/recover", None).await.body;
    assert_eq!(progress["queued"], 1, "{progress}");
}

async fn a_recovery_goes_on_where_it_stood(backend: Backend) {
    let (database, receiver) = (Database::new(backend).await, Receiver::start().await);
    let process = HubProcess::start(&database, &PROCESS).await;
    let app = create_app(&database, process.addr, "a", false);
    let expected = publish_batch(&app, "missed", 90).await;
    let made = app.webhook(&receiver.url("/ok"), &["**"]).await;
    process.kill();
    let store = database.store().await;
    let (id, app_id) = (
        oriva_hub_actors::model::WebhookId(made["webhook_id"].as_str().unwrap().parse().unwrap()),
        oriva_hub_actors::model::AppId::parse("a").unwrap(),
    );
    let audit = oriva_hub::store::Audit { actor: "a".to_owned(), ip: None };
    let since = oriva_hub_actors::model::Timestamp::parse("2020-01-01T00:00:00Z").unwrap();
    let opened = store.start_recovery(&app_id, id, since, &audit).await.unwrap().unwrap();
    assert_eq!((opened.position, opened.until, opened.queued), (0, 90, 0));
    for (position, queued) in [(20, 20), (40, 40)] {
        let step = store.advance_recovery(20).await.unwrap().unwrap();
        assert_eq!((step.position, step.queued, step.finished_at), (position, queued, None));
    }
    // The node that began the recovery is gone, and another one continues.
    let process = HubProcess::start(&database, &PROCESS).await;
    eventually("every event arrived", async || arrived(&receiver) == expected).await;
    let progress = app.at(process.addr).webhook_request("GET", &made["webhook_id"], "/recover", None).await.body;
    assert_eq!((&progress["status"], &progress["queued"]), (&json!("finished"), &json!(90)));
}

/// For PostgreSQL only: two nodes with one store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_of_two_nodes_is_killed_the_other_takes_over() {
    let (database, receiver) = (Database::new(Backend::Postgres).await, Receiver::start().await);
    let one = HubProcess::start(&database, &PROCESS).await;
    let two = HubProcess::start(&database, &PROCESS).await;
    let app = create_app(&database, one.addr, "a", false);
    app.webhook(&receiver.url("/ok"), &["**"]).await;
    let mut expected = publish_batch(&app, "one", 600).await;
    expected.extend(publish_batch(&app.at(two.addr), "two", 200).await);
    eventually("some arrive", async || arrived(&receiver).len() > 100).await;
    one.kill();
    eventually("every event arrived", async || arrived(&receiver) == expected).await;
    drop(two);
}
