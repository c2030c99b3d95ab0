//! Notifications expire at their time: once, with an event for everybody, and they are not shown afterwards (T038).

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::number;
use crate::{
    harness::{App, Backend, TestHub, eventually},
    on_both_stores,
};

on_both_stores!(
    it_ends_at_its_time_and_everybody_hears_of_it,
    what_is_over_is_not_shown_before_the_worker_came,
    many_end_in_bounded_runs_and_each_once,
    a_dismissal_beats_the_expiry,
    an_earlier_one_wakes_the_worker,
    a_run_may_be_larger_than_the_writers_room,
);

fn in_ms(ms: i64) -> Value {
    let moment: DateTime<Utc> = Utc::now() + chrono::TimeDelta::milliseconds(ms);
    json!(moment.to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn expiring(title: impl ToString, ms: i64) -> Value {
    let mut body = App::notification("alice", title);
    body["expires_at"] = in_ms(ms);
    body
}

async fn it_ends_at_its_time_and_everybody_hears_of_it(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let alice = app.user("alice").await;
    let mut sockets = [app.connect("alice").await, app.connect("alice").await];
    for socket in &mut sockets {
        socket.subscribe(&["notification.expired"]).await;
    }
    let id = app.notify(&expiring("soon over", 600)).await;
    assert_eq!((alice.unread().await, alice.titles("").await.len()), (1, 1));
    for socket in &mut sockets {
        let frame = socket.frame().await;
        assert_eq!((&frame["event_type"], &frame["entity_id"]), (&json!("notification.expired"), &json!(id)));
        assert_eq!(frame["event_data"]["status"], "expired");
    }
    assert_eq!((alice.unread().await, alice.titles("").await.len()), (0, 0));
    assert_eq!(alice.titles("?status=expired").await, ["soon over"]);
    let seen = alice.get(&id).await.body;
    assert!(seen["status"] == "expired" && seen["expired_at"].as_str() >= seen["expires_at"].as_str(), "{seen}");
    assert_eq!(
        number(&hub, "select count(*) from audit_log where action = 'notification.expired' and actor = 'hub'").await,
        1
    );
}

async fn what_is_over_is_not_shown_before_the_worker_came(backend: Backend) {
    // With a limit of 0 the worker never expires it.
    let hub = TestHub::start_with(backend, |config| config.expiry.batch = 0).await;
    let app = hub.app("a").await;
    let alice = app.user("alice").await;
    app.notify(&expiring("over", 300)).await;
    let dismissed = app.notify(&expiring("dismissed before", 300)).await;
    alice.set(&dismissed, "dismissed").await;
    app.notify(&App::notification("alice", "stays")).await;
    eventually("it is not shown", async || alice.titles("?status=unread").await == ["stays"]).await;
    assert_eq!(alice.titles("").await, ["stays", "dismissed before"]);
    assert_eq!(number(&hub, "select count(*) from notification_state where status = 'unread'").await, 2);
    let counts = alice.counts().await;
    assert_eq!((&counts["unread"], &counts["by_status"]["expired"]), (&json!(1), &json!(1)), "{counts}");
    assert_eq!(alice.read_all(json!({})).await.body["updated"], 1);
}

async fn many_end_in_bounded_runs_and_each_once(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| config.expiry.batch = 100).await;
    let app = hub.app("a").await;
    let many: Vec<_> = (0..450).map(|n| expiring(n, 700)).collect();
    let request = app.request("POST", "/notifications/batch").json(&json!({"notifications": many}));
    assert_eq!(crate::harness::callers::read(request).await.status, 200);
    let expired = "select count(*) from notification_state where status = 'expired'";
    eventually("all are over", async || number(&hub, expired).await == 450).await;
    assert_eq!(app.events("?event_type=expired").await.body["total"], 450);
    let once = "select count(distinct entity_id) from platform_events where event_type = 'expired'";
    assert_eq!(number(&hub, once).await, 450);
}

async fn a_dismissal_beats_the_expiry(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let alice = app.user("alice").await;
    let ids = futures_util::future::join_all((0..20).map(|n| {
        let app = app.clone();
        async move { app.notify(&expiring(n, 500)).await }
    }))
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    let answers = futures_util::future::join_all(ids.iter().map(|id| {
        let (alice, id) = (alice.clone(), id.clone());
        async move { alice.patch(&id, json!({"status": "dismissed"})).await.status }
    }))
    .await;
    eventually("none is left", async || alice.titles("?status=unread").await.is_empty()).await;
    for (id, status) in ids.iter().zip(answers) {
        // Whichever came first, there is one change and one event.
        let ended = alice.get(id).await.body["status"].clone();
        assert_eq!(ended, if status == 200 { "dismissed" } else { "expired" });
        assert_eq!(app.events(&format!("?entity_id={id}")).await.body["total"], 2);
    }
}

async fn a_run_may_be_larger_than_the_writers_room(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| config.expiry.batch = 100_000).await;
    let app = hub.app("a").await;
    let id = app.notify(&expiring("soon over", 200)).await;
    let alice = app.user("alice").await;
    eventually("it is over", async || alice.get(&id).await.body["status"] == "expired").await;
}

async fn an_earlier_one_wakes_the_worker(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    app.notify(&expiring("late", 3_600_000)).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let early = app.notify(&expiring("early", 300)).await;
    let alice = app.user("alice").await;
    eventually("the early one is over", async || alice.get(&early).await.body["status"] == "expired").await;
    assert_eq!(alice.titles("").await, ["late"]);
}
