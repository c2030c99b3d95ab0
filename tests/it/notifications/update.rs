//! `PATCH` and `DELETE /notifications/{id}` (T007, T008, T030, T031).

use serde_json::json;

use super::number;
use crate::{
    harness::{App, Backend, TestHub, callers::read},
    on_both_stores,
};

on_both_stores!(
    a_published_dismissal_dismisses,
    every_move_of_the_table_goes_and_no_other,
    a_repeat_changes_nothing_and_publishes_nothing,
    sixteen_dismissals_give_one_event,
    the_event_tells_what_was_done,
    bad_changes_name_their_fields,
    only_those_concerned_may_change_a_notification,
    deletion_is_the_owners_and_final,
    a_read_all_reads_what_was_there,
    read_all_is_bounded_by_app_and_moment,
    delivered_at_is_set_when_a_socket_was_handed_it,
);

async fn every_move_of_the_table_goes_and_no_other(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let alice = app.user("alice").await;
    let states = ["unread", "read", "clicked", "dismissed", "expired"];
    for (from, to) in states.iter().flat_map(|from| states.iter().map(move |to| (*from, *to))) {
        let id = app.notify(&App::notification("alice", format!("{from} {to}"))).await;
        alice.set(&id, from).await;
        let answer = alice.patch(&id, json!({"status": to})).await;
        let (rank_from, rank_to) = (states.iter().position(|s| *s == from), states.iter().position(|s| *s == to));
        let goes = from == to || (rank_to > rank_from && from != "dismissed");
        assert_eq!(answer.status, if goes { 200 } else { 400 }, "{from} to {to}");
        if !goes {
            assert_eq!(answer.code(), "invalid_transition");
            let detail = answer.body["detail"].as_str().unwrap();
            assert!(detail.contains(from) && detail.contains(to), "{detail}");
        }
        assert_eq!(alice.get(&id).await.body["status"], if goes { to } else { from });
    }
}

async fn a_repeat_changes_nothing_and_publishes_nothing(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let alice = app.user("alice").await;
    let id = app.notify(&App::notification("alice", "x")).await;
    let first = alice.patch(&id, json!({"status": "dismissed", "dismissed_from": "phone"})).await;
    let second = alice.patch(&id, json!({"status": "dismissed", "dismissed_from": "desk"})).await;
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.body, second.body);
    assert_eq!((&first.body["notification_id"], &first.body["dismissed_from"]), (&json!(id), &json!("phone")));
    let seen = alice.get(&id).await.body;
    assert_eq!((&seen["dismissed_at"], &seen["updated_at"]), (&first.body["dismissed_at"], &first.body["updated_at"]));
    assert_eq!(app.events("?event_type=notification.dismissed").await.body["total"], 1);
}

async fn sixteen_dismissals_give_one_event(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let alice = app.user("alice").await;
    for round in 0..5 {
        let id = app.notify(&App::notification("alice", round)).await;
        let tasks: Vec<_> = (0..16)
            .map(|device| {
                let (alice, id) = (alice.clone(), id.clone());
                tokio::spawn(async move {
                    alice.patch(&id, json!({"status": "dismissed", "dismissed_from": format!("device {device}")})).await
                })
            })
            .collect();
        let mut from = Vec::new();
        for task in tasks {
            let answer = task.await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.body);
            from.push(answer.body["dismissed_from"].clone());
        }
        assert!(from.iter().all(|device| *device == from[0]), "one won: {from:?}");
        let events = app.events(&format!("?event_type=dismissed&entity_id={id}")).await.body;
        assert_eq!((&events["total"], &events["events"][0]["event_data"]["dismissed_from"]), (&json!(1), &from[0]));
    }
    assert_eq!(number(&hub, "select max(user_offset) from platform_events").await, 10);
}

async fn the_event_tells_what_was_done(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, core) = (hub.app("a").await, hub.platform_app("core").await);
    let mut body = App::notification("alice", "x");
    body["external_id"] = json!("e1");
    let id = app.notify(&body).await;
    let alice = core.user("alice").await;
    let clicked = json!({"status": "clicked", "click_action": "open", "metadata": {"screen": "home", "status": "no"}});
    let state = alice.patch(&id, clicked).await.body;
    assert!(state["read_at"].is_string() && state["read_at"] == state["clicked_at"], "{state}");
    alice.set(&id, "dismissed").await;
    let events = app.events("?limit=2").await.body["events"].clone();
    let (dismissed, clicked) = (&events[0], &events[1]);
    assert_eq!((&clicked["event_type"], &clicked["app_id"]), (&json!("clicked"), &json!("a")));
    let expected = json!({"notification_id": id, "external_id": "e1", "status": "clicked", "click_action": "open", "screen": "home"});
    assert_eq!(clicked["event_data"], expected);
    assert_eq!(dismissed["event_data"]["dismissed_from"], "core", "the caller's app, where nothing is said");
    assert_eq!(alice.get(&id).await.body["dismissed_from"], "core");
}

async fn bad_changes_name_their_fields(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let alice = app.user("alice").await;
    let id = app.notify(&App::notification("alice", "x")).await;
    for (body, field) in [
        (json!({}), "status"),
        (json!({"status": "gone"}), "status"),
        (json!({"status": 1}), "status"),
        (json!({"status": "dismissed", "dismissed_from": ""}), "dismissed_from"),
        (json!({"status": "read", "metadata": []}), "metadata"),
        (json!({"status": "read", "state": 1}), "state"),
    ] {
        let answer = alice.patch(&id, body.clone()).await;
        assert_eq!((answer.status, answer.fields()), (400, vec![field]), "{body}");
    }
    assert_eq!(alice.get(&id).await.body["status"], "unread");
    for missing in ["018f0000-0000-7000-8000-000000000000", "not-a-uuid", &id.to_uppercase(), &id.replace('-', "")] {
        for answer in [
            alice.patch(missing, json!({"status": "read"})).await,
            alice.patch(missing, json!({"status": "gone"})).await,
            alice.get(missing).await,
            app.inbox("alice").delete(missing).await,
        ] {
            assert_eq!((answer.status, answer.code()), (404, "not_found"), "{missing}");
        }
    }
}

async fn only_those_concerned_may_change_a_notification(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other, core) = (hub.app("a").await, hub.app("b").await, hub.platform_app("core").await);
    let id = app.notify(&App::notification("alice", "x")).await;
    let denied = [app.user("bob").await, other.user("alice").await, other.inbox("alice"), core.user("bob").await];
    for caller in &denied {
        assert_eq!(caller.get(&id).await.status, 403);
        for body in [json!({"status": "read"}), json!({})] {
            let answer = caller.patch(&id, body).await;
            assert_eq!((answer.status, answer.code()), (403, "forbidden"));
        }
    }
    assert_eq!(app.inbox("alice").get(&id).await.body["status"], "unread");
    app.user("alice").await.set(&id, "read").await;
    app.inbox("alice").set(&id, "clicked").await;
    core.inbox("alice").set(&id, "dismissed").await;
    assert_eq!(core.user("alice").await.get(&id).await.body["status"], "dismissed");
}

async fn deletion_is_the_owners_and_final(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other, core) = (hub.app("a").await, hub.app("b").await, hub.platform_app("core").await);
    let id = app.notify(&App::notification("alice", "x")).await;
    let mut socket = app.connect("alice").await;
    socket.subscribe(&["notification.deleted"]).await;
    for denied in [other.inbox("alice"), core.inbox("alice"), app.user("alice").await] {
        assert_eq!(denied.delete(&id).await.status, 403);
    }
    let owner = app.inbox("alice");
    assert_eq!(owner.delete(&id).await.status, 204);
    assert_eq!(socket.frame().await["event_data"]["notification_id"], json!(id));
    assert_eq!(owner.delete(&id).await.status, 404);
    assert_eq!(owner.get(&id).await.status, 404);
    assert_eq!(owner.patch(&id, json!({"status": "read"})).await.status, 404);
    assert_eq!(number(&hub, "select count(*) from notification_state").await, 0);
    assert_eq!(owner.unread().await, 0);
}

async fn a_read_all_reads_what_was_there(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let alice = app.user("alice").await;
    let many: Vec<_> = (0..800).map(|n| App::notification("alice", n)).collect();
    read(app.request("POST", "/notifications/batch").json(&json!({"notifications": many}))).await;
    let dismissed = app.notify(&App::notification("alice", "x")).await;
    alice.set(&dismissed, "dismissed").await;
    app.notify(&App::notification("bob", "bob's")).await;
    assert_eq!(alice.unread().await, 800);
    let mut socket = app.connect("alice").await;
    socket.subscribe(&["notification.read"]).await;
    assert_eq!(alice.read_all(json!({})).await.body, json!({"updated": 800}));
    assert_eq!((alice.unread().await, app.inbox("bob").unread().await), (0, 1));
    for offset in 803..1603 {
        assert_eq!(socket.offset().await, offset);
    }
    assert_eq!(alice.read_all(json!({})).await.body, json!({"updated": 0}));
    assert_eq!(alice.get(&dismissed).await.body["status"], "dismissed");
    assert_eq!(
        app.user("bob").await.ask("POST", "/users/alice/notifications/read-all", Some(json!({}))).await.status,
        403
    );
}

async fn read_all_is_bounded_by_app_and_moment(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (one, two, core) = (hub.app("one").await, hub.app("two").await, hub.platform_app("core").await);
    for app in [&one, &two] {
        app.notify(&App::notification("alice", "old")).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let id = one.notify(&App::notification("alice", "new")).await;
    let alice = core.user("alice").await;
    let created_at = alice.get(&id).await.body["created_at"].clone();
    assert_eq!(alice.read_all(json!({"app_id": "one", "before": created_at})).await.body["updated"], 1);
    assert_eq!(two.inbox("alice").read_all(json!({"app_id": "one"})).await.body["updated"], 0, "out of its reach");
    assert_eq!(alice.counts().await["by_app"], json!({"one": 1, "two": 1}));
    assert_eq!(two.inbox("alice").read_all(json!({})).await.body["updated"], 1);
    assert_eq!(alice.titles("?status=unread").await, ["new"]);
    for (body, field) in
        [(json!({"app_id": "Not A Slug"}), "app_id"), (json!({"before": "noon"}), "before"), (json!({"x": 1}), "x")]
    {
        assert_eq!(alice.read_all(body).await.fields(), [field]);
    }
}

async fn delivered_at_is_set_when_a_socket_was_handed_it(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other) = (hub.app("a").await, hub.app("b").await);
    let alice = app.user("alice").await;
    let before = app.notify(&App::notification("alice", "nobody listens")).await;
    let mut phone = app.connect("alice").await;
    phone.subscribe(&["notification.*"]).await;
    let live = app.notify(&App::notification("alice", "live")).await;
    assert_eq!(phone.frame().await["entity_id"], json!(live));
    crate::harness::eventually("delivered_at is set", async || alice.get(&live).await.body["delivered_at"].is_string())
        .await;
    assert!(alice.get(&before).await.body["delivered_at"].is_null());
    // Another app cannot change it by publishing such an event.
    let mut forged = App::event("alice", &before);
    forged["event_type"] = json!("created");
    other.post(&forged).await;
    let mut desk = app.connect("alice").await;
    desk.subscribe(&["**"]).await;
    let (events, _) = desk.resume(0).await;
    assert!(!events.is_empty());
    crate::harness::eventually("a replay hands it too", async || {
        alice.get(&before).await.body["delivered_at"].is_string()
    })
    .await;
    assert!(alice.get(&before).await.body["read_at"].is_null());
}

/// The seed's T015: "POST event or PATCH state".
async fn a_published_dismissal_dismisses(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other) = (hub.app("a").await, hub.app("b").await);
    let alice = app.inbox("alice");
    let id = app.notify(&App::notification("alice", "t")).await;
    let dismissal = |user: &str| {
        let mut event = App::event(user, &id);
        event["event_category"] = json!("notification");
        event["event_type"] = json!("dismissed");
        event["entity_type"] = json!("notification");
        event["event_data"] = json!({"from": "mail"});
        event
    };
    // Another app's word, or one about another user, is an event and no more.
    assert_eq!(other.post(&dismissal("alice")).await.status, 200);
    assert_eq!(app.post(&dismissal("bob")).await.status, 200);
    assert_eq!(alice.get(&id).await.body["status"], "unread");
    let mut socket = app.connect("alice").await;
    socket.subscribe(&["notification.dismissed"]).await;
    let batch = json!({"events": [dismissal("alice"), dismissal("alice")]});
    assert_eq!(read(app.request("POST", "/events/batch").json(&batch)).await.status, 200);
    let state = alice.get(&id).await.body;
    assert_eq!((&state["status"], &state["dismissed_from"]), (&json!("dismissed"), &json!("a")));
    for _ in 0..2 {
        let frame = socket.frame().await;
        assert_eq!((&frame["entity_id"], &frame["event_data"]), (&json!(id), &json!({"from": "mail"})));
    }
    assert_eq!(alice.unread().await, 0);
    let audit = hub.admin("GET", "/api/v1/admin/audit?limit=100", None).await.body;
    let dismissals =
        audit["entries"].as_array().unwrap().iter().filter(|one| one["action"] == "notification.dismissed");
    assert_eq!(dismissals.map(|one| &one["subject"]).collect::<Vec<_>>(), [&json!(id)], "the change, once");
}
