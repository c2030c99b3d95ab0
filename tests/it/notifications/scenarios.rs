//! The scenarios of the original plan, by their names (T013–T017, T020).

use serde_json::{Value, json};

use super::number;
use crate::{
    harness::{App, Backend, TestHub},
    on_both_stores,
};

on_both_stores!(
    t013_a_third_party_app_creates_a_notification,
    t014_a_user_dismisses_a_notification_in_the_central_app,
    t015_a_user_dismisses_a_notification_in_the_third_party_app,
    t016_a_user_clicks_a_notifications_action,
    t017_several_apps_send_notifications,
    t020_devices_hear_of_notifications_at_once,
);

fn reminder() -> Value {
    json!({
        "user_id": "alice", "external_id": "session-42", "notification_type": "session_reminder",
        "title": "Session with Bob", "body": "Starts in 5 minutes", "priority": "high",
        "action_url": "workbuddy://sessions/42", "action_label": "Join", "context_data": {"session_id": 42}
    })
}

async fn t013_a_third_party_app_creates_a_notification(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (work_buddy, core) = (hub.app("work-buddy").await, hub.platform_app("oriva-core").await);
    let icon = json!({"icon_url": "https://cdn.example/wb.png"});
    assert_eq!(hub.admin("PATCH", "/api/v1/admin/apps/work-buddy", Some(icon)).await.status, 200);
    let id = work_buddy.notify(&reminder()).await;
    assert_eq!(number(&hub, "select count(*) from platform_notifications where external_id = 'session-42'").await, 1);
    assert_eq!(number(&hub, "select count(*) from notification_state where status = 'unread'").await, 1);
    let created =
        "select count(*) from platform_events where event_category = 'notification' and event_type = 'created'";
    assert_eq!(number(&hub, created).await, 1);
    let feed = core.user("alice").await.feed("").await.body;
    let shown = &feed["notifications"][0];
    assert_eq!((&shown["notification_id"], &shown["status"]), (&json!(id), &json!("unread")));
    assert_eq!(
        (&shown["app_name"], &shown["app_icon_url"]),
        (&json!("App work-buddy"), &json!("https://cdn.example/wb.png"))
    );
    assert_eq!(shown["app_icon"], shown["app_icon_url"]);
}

async fn t014_a_user_dismisses_a_notification_in_the_central_app(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (work_buddy, core) = (hub.app("work-buddy").await, hub.platform_app("oriva-core").await);
    let id = work_buddy.notify(&reminder()).await;
    let alice = core.user("alice").await;
    let state = alice.set(&id, "dismissed").await;
    assert!(state["dismissed_at"].is_string());
    assert_eq!(state["dismissed_from"], "oriva-core");
    assert_eq!(number(&hub, "select count(*) from notification_state where dismissed_at is not null").await, 1);
    let events = work_buddy.events("?event_type=notification.dismissed").await.body;
    assert_eq!((&events["total"], &events["events"][0]["entity_id"]), (&json!(1), &json!(id)));
    assert_eq!(alice.titles("?status=unread").await, Vec::<String>::new());
    assert_eq!(alice.unread().await, 0);
}

async fn t015_a_user_dismisses_a_notification_in_the_third_party_app(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (work_buddy, core) = (hub.app("work-buddy").await, hub.platform_app("oriva-core").await);
    let id = work_buddy.notify(&reminder()).await;
    let (in_core, in_work_buddy) = (core.user("alice").await, work_buddy.inbox("alice"));
    assert_eq!(in_core.titles("?status=unread").await, in_work_buddy.titles("?status=unread").await);
    let first = in_work_buddy.set(&id, "dismissed").await;
    let second = in_work_buddy.set(&id, "dismissed").await;
    assert_eq!(first, second);
    assert_eq!(first["dismissed_from"], "work-buddy");
    assert_eq!(in_core.titles("?status=unread").await, Vec::<String>::new());
    assert_eq!(in_core.get(&id).await.body["status"], "dismissed");
}

async fn t016_a_user_clicks_a_notifications_action(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let work_buddy = hub.app("work-buddy").await;
    let id = work_buddy.notify(&reminder()).await;
    let alice = work_buddy.user("alice").await;
    let answer = alice.patch(&id, json!({"status": "clicked", "click_action": "join"})).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body["clicked_at"].is_string());
    let events = work_buddy.events("?event_type=clicked").await.body;
    assert_eq!(events["events"][0]["event_data"]["click_action"], "join");
    assert_eq!(alice.get(&id).await.body["click_action"], "join");
}

async fn t017_several_apps_send_notifications(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let core = hub.platform_app("oriva-core").await;
    for (app, priority) in [("work-buddy", "normal"), ("hugo-ai", "urgent"), ("tests", "low")] {
        let app = hub.app(app).await;
        for n in 0..2 {
            let mut body = App::notification("alice", format!("{} {n}", app.id));
            body["priority"] = json!(priority);
            app.notify(&body).await;
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    let alice = core.user("alice").await;
    let feed = alice.feed("").await.body;
    let shown: Vec<_> = feed["notifications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["title"].as_str().unwrap(), one["app_name"].as_str().unwrap()))
        .collect();
    let expected = [
        ("hugo-ai 1", "App hugo-ai"),
        ("hugo-ai 0", "App hugo-ai"),
        ("work-buddy 1", "App work-buddy"),
        ("work-buddy 0", "App work-buddy"),
        ("tests 1", "App tests"),
        ("tests 0", "App tests"),
    ];
    assert_eq!(shown, expected);
    assert_eq!(alice.titles("?app_id=hugo-ai").await, ["hugo-ai 1", "hugo-ai 0"]);
    assert_eq!(alice.counts().await["by_app"], json!({"hugo-ai": 2, "tests": 2, "work-buddy": 2}));
}

async fn t020_devices_hear_of_notifications_at_once(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (work_buddy, core) = (hub.app("work-buddy").await, hub.platform_app("oriva-core").await);
    let (mut phone, mut desk) = (core.connect("alice").await, core.connect("alice").await);
    for device in [&mut phone, &mut desk] {
        device.subscribe(&["notification.*"]).await;
    }
    let mut soon_over = reminder();
    let moment = chrono::Utc::now() + chrono::TimeDelta::milliseconds(1500);
    soon_over["expires_at"] = json!(moment.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
    soon_over["external_id"] = json!("soon over");
    let dismissed = work_buddy.notify(&reminder()).await;
    let expired = work_buddy.notify(&soon_over).await;
    core.user("alice").await.set(&dismissed, "dismissed").await;
    for device in [&mut phone, &mut desk] {
        for (event_type, id) in [
            ("notification.created", &dismissed),
            ("notification.created", &expired),
            ("notification.dismissed", &dismissed),
            ("notification.expired", &expired),
        ] {
            let frame = device.frame().await;
            assert_eq!((&frame["event_type"], &frame["entity_id"]), (&json!(event_type), &json!(id)));
            assert_eq!(frame["event_data"]["notification_id"], json!(id));
        }
    }
    assert_eq!(core.user("alice").await.titles("?status=unread").await, Vec::<String>::new());
}
