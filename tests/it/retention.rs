//! What becomes of rows past retention (data-model, 'Retention'; seed row T043).

use oriva_hub::{config::Retention, store::Retired, workers::Archiver};
use serde_json::{Value, json};

use crate::{
    harness::{App, Backend, Database, HubProcess, Receiver, TestHub, eventually, process},
    notifications::number,
    on_both_stores,
};

on_both_stores!(
    what_is_old_is_moved_and_nothing_is_lost_or_doubled,
    a_notification_that_is_not_over_ends_before_it_is_archived,
    deliveries_and_their_log_are_deleted,
    the_command_says_what_is_due_and_does_it,
);

/// Everything is past it.
const ALL: Retention = Retention { days: 0, delivery_log_days: 0, batch: 10_000, archive_url: None };

async fn archiver(hub: &TestHub, config: &Retention) -> Archiver {
    Archiver::new(hub.database.store().await, config, hub.hub.next_expiry())
}

fn count(done: &[(Retired, u64)], what: Retired) -> u64 {
    done.iter().find(|(kind, _)| *kind == what).map(|(_, count)| *count).unwrap()
}

async fn what_is_old_is_moved_and_nothing_is_lost_or_doubled(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("work-buddy").await;
    for n in 0..2500 / 100 {
        let events: Vec<Value> = (0..100).map(|m| App::event("alice", n * 100 + m)).collect();
        assert_eq!(
            app.request("POST", "/events/batch").json(&json!({"events": events})).send().await.unwrap().status(),
            200
        );
    }
    app.broadcast("b").await;
    let kept = archiver(&hub, &Retention { days: 90, delivery_log_days: 30, ..ALL }).await;
    assert_eq!(count(&kept.run().await.unwrap(), Retired::Events), 0, "young ones stay");

    // Two nodes at the same moment.
    let (one, two) = (archiver(&hub, &ALL).await, archiver(&hub, &ALL).await);
    assert_eq!(count(&one.due().await.unwrap(), Retired::Events), 2501);
    let (first, second) = tokio::join!(one.run(), two.run());
    let moved = count(&first.unwrap(), Retired::Events) + count(&second.unwrap(), Retired::Events);
    let rest = count(&one.run().await.unwrap(), Retired::Events);
    assert_eq!(moved + rest, 2501);
    assert_eq!(number(&hub, "select count(*) from platform_events").await, 0);
    let sum = "select count(*) from platform_events_archive where entity_id <> '' and app_offset between 1 and 2501";
    assert_eq!(number(&hub, sum).await, 2501);
    assert_eq!(number(&hub, "select count(distinct app_offset) from platform_events_archive").await, 2501);

    // Whoever comes back from before is told so, and offsets go on where they were.
    let mut socket = app.connect("alice").await;
    let (events, resumed) = socket.resume(7).await;
    assert_eq!((events.len(), &resumed["recovered"], &resumed["offset"]), (0, &json!(false), &json!(2500)));
    assert_eq!(app.publish("alice", "new").await, 2502);
    assert_eq!(socket.offset().await, 2501);
}

async fn a_notification_that_is_not_over_ends_before_it_is_archived(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("work-buddy").await;
    let (unread, dismissed) =
        (app.notify(&App::notification("alice", "a")).await, app.notify(&App::notification("alice", "b")).await);
    let inbox = app.user("alice").await;
    assert_eq!(inbox.patch(&dismissed, json!({"status": "dismissed"})).await.status, 200);
    let mut socket = app.connect("alice").await;
    socket.subscribe(&["notification.*"]).await;

    let archiver = archiver(&hub, &ALL).await;
    // The one that is over; and the other where the expiry worker was quicker.
    let mut archived = count(&archiver.run().await.unwrap(), Retired::Notifications);
    let frame = socket.frame().await;
    assert_eq!((&frame["event_type"], &frame["entity_id"]), (&json!("notification.expired"), &json!(unread)));
    archived += count(&archiver.run().await.unwrap(), Retired::Notifications);
    assert_eq!(archived, 2);
    for (table, rows) in [
        ("platform_notifications", 0),
        ("notification_state", 0),
        ("platform_notifications_archive", 2),
        ("notification_state_archive", 2),
    ] {
        assert_eq!(number(&hub, &format!("select count(*) from {table}")).await, rows, "{table}");
    }
    let states = "select count(*) from notification_state_archive s join platform_notifications_archive n \
                  on n.id = s.notification_id where (n.title = 'a' and s.status = 'expired') \
                  or (n.title = 'b' and s.status = 'dismissed' and s.dismissed_at is not null)";
    assert_eq!(number(&hub, states).await, 2);
    assert_eq!(inbox.get(&unread).await.status, 404);
}

async fn deliveries_and_their_log_are_deleted(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| config.webhooks.allow_http = true).await;
    let app = hub.app("work-buddy").await;
    let receiver = Receiver::start().await;
    app.webhook(&receiver.url("/ok"), &["**"]).await;
    app.publish("alice", 1).await;
    eventually("it is delivered", async || number(&hub, "select count(*) from webhook_delivery_log").await == 1).await;
    let log_only = Retention { days: 90, ..ALL };
    assert_eq!(count(&archiver(&hub, &log_only).await.run().await.unwrap(), Retired::DeliveryLog), 1);
    assert_eq!(number(&hub, "select count(*) from webhook_deliveries").await, 1);
    let done = archiver(&hub, &ALL).await.run().await.unwrap();
    assert_eq!((count(&done, Retired::Deliveries), count(&done, Retired::Events)), (1, 1));
}

async fn the_command_says_what_is_due_and_does_it(backend: Backend) {
    let database = Database::new(backend).await;
    let hub = HubProcess::start(&database, &[]).await;
    let app = process::create_app(&database, hub.addr, "work-buddy", false);
    app.publish("alice", 1).await;
    let run = |args: &[&str]| -> Value {
        let output = process::command(&database, args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let none = json!({"events": 0, "notifications": 0, "deliveries": 0, "delivery_log": 0});
    assert_eq!(run(&["archive", "--dry-run", "--json"]), none, "it is young");
    assert_eq!(run(&["archive", "--json"]), none);
}
