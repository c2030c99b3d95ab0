//! `POST /apps/{app_id}/notifications` and its batch (T005, T025, T028).

use serde_json::{Value, json};

use super::number;
use crate::{
    harness::{
        App, Backend, TestHub,
        callers::{read, send},
    },
    on_both_stores,
};

on_both_stores!(
    a_notification_is_created_with_state_and_event,
    every_field_comes_back,
    plain_text_comes_back_as_it_was_written,
    a_second_external_id_is_a_conflict_that_names_the_first,
    an_external_id_that_many_race_for_has_one_owner,
    a_batch_answers_item_by_item_and_lands_in_one_transaction,
    a_thousand_land_together_and_so_do_a_thousand_users_of_one_content,
    a_bad_notification_names_every_faulty_field_and_writes_nothing,
    the_same_key_creates_once,
    a_conflict_lets_its_key_go,
    the_budget_is_501_requests_less_one,
    creation_is_written_down_without_content,
);

async fn a_notification_is_created_with_state_and_event(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("work-buddy").await;
    let answer = app.create(&App::notification("alice", "Session in 5")).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let id = answer.body["notification_id"].as_str().unwrap();
    assert_eq!(answer.header("location"), format!("/api/v1/notifications/{id}"));
    assert!(answer.body["created_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(number(&hub, "select count(*) from notification_state where status = 'unread'").await, 1);
    let events = app.events("?event_type=notification.created").await.body;
    let event = &events["events"][0];
    assert_eq!((&event["event_type"], &event["entity_type"]), (&json!("created"), &json!("notification")));
    assert_eq!((&event["entity_id"], &event["user_id"]), (&json!(id), &json!("alice")));
    assert_eq!(
        (&event["event_data"]["title"], &event["event_data"]["status"]),
        (&json!("Session in 5"), &json!("unread"))
    );
    let missing = read(app.request("GET", "/../../notifications/not-a-uuid")).await;
    assert_eq!(missing.status, 404);
}

async fn every_field_comes_back(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("work-buddy").await;
    let expires_at = "2999-01-01T00:00:00.123Z";
    let sent = json!({
        "user_id": "alice", "external_id": "ext-1", "notification_type": "reminder", "title": "Title", "body": "Line\nline",
        "priority": "critical", "action_url": "workbuddy://session/1", "action_label": "Open",
        "image_url": "https://cdn.example/i.png", "icon_url": "https://cdn.example/icon.png",
        "context_data": {"deep": [1, {"x": null}]}, "expires_at": expires_at
    });
    let id = app.notify(&sent).await;
    let seen = app.user("alice").await.get(&id).await.body;
    for field in [
        "user_id",
        "external_id",
        "notification_type",
        "title",
        "body",
        "action_url",
        "action_label",
        "image_url",
        "icon_url",
        "context_data",
        "expires_at",
    ] {
        assert_eq!(seen[field], sent[field], "{field}");
    }
    assert_eq!(seen["priority"], "urgent");
    assert_eq!((&seen["notification_id"], &seen["app_id"]), (&json!(id), &json!("work-buddy")));
    assert_eq!((&seen["app_name"], &seen["app_icon"]), (&json!("App work-buddy"), &Value::Null));
    for field in [
        "status",
        "read_at",
        "dismissed_at",
        "clicked_at",
        "dismissed_from",
        "click_action",
        "created_at",
        "updated_at",
        "app_icon_url",
    ] {
        assert!(seen.as_object().unwrap().contains_key(field), "{field}");
    }
}

async fn plain_text_comes_back_as_it_was_written(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let alice = app.user("alice").await;
    for (written, shown) in [
        ("Tom & Jerry < 3", "Tom & Jerry < 3"),
        ("5 &lt; 6", "5 &lt; 6"),
        ("I <3 you", "I <3 you"),
        ("<b>Hi</b><script>x</script>", "Hi"),
        ("\u{1f600}'\"\\ \u{0}\u{7}ü", "\u{1f600}'\"\\ ü"),
    ] {
        let id =
            app.notify(&json!({"user_id": "alice", "title": written, "body": written, "action_label": written})).await;
        let seen = alice.get(&id).await.body;
        assert_eq!(
            (&seen["title"], &seen["body"], &seen["action_label"]),
            (&json!(shown), &json!(shown), &json!(shown))
        );
    }
    let long = app.notify(&App::notification("alice", "\u{1f600}".repeat(200))).await;
    assert_eq!(alice.get(&long).await.body["title"].as_str().unwrap().chars().count(), 200);
}

async fn a_second_external_id_is_a_conflict_that_names_the_first(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other) = (hub.app("a").await, hub.app("b").await);
    let mut body = App::notification("alice", "first");
    body["external_id"] = json!("ext");
    let first = app.notify(&body).await;
    body["user_id"] = json!("bob");
    let second = app.create(&body).await;
    assert_eq!((second.status, second.code()), (409, "duplicate_external_id"));
    assert_eq!(second.body["notification_id"], json!(first));
    assert_eq!(second.fields(), ["external_id"]);
    assert_eq!(other.create(&body).await.status, 201, "another app's ids are its own");
    assert_eq!(number(&hub, "select count(*) from notification_state").await, 2);
    assert_eq!(app.events("").await.body["total"], 1, "a conflict publishes nothing");
}

async fn an_external_id_that_many_race_for_has_one_owner(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let mut body = App::notification("alice", "x");
    body["external_id"] = json!("race");
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (app, body) = (app.clone(), body.clone());
            tokio::spawn(async move { app.create(&body).await })
        })
        .collect();
    let (mut made, mut named) = (Vec::new(), Vec::new());
    for task in tasks {
        let answer = task.await.unwrap();
        let id = answer.body["notification_id"].as_str().expect("an id either way").to_owned();
        if answer.status == 201 { made.push(id) } else { named.push(id) }
    }
    assert_eq!((made.len(), named.len()), (1, 15));
    assert!(named.iter().all(|id| *id == made[0]));
}

async fn a_batch_answers_item_by_item_and_lands_in_one_transaction(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let mut with_id = App::notification("alice", "2");
    with_id["external_id"] = json!("x");
    let items = json!({"notifications": [
        App::notification("alice", "1"), with_id, {"user_id": "alice", "title": "", "body": "b"}, with_id, 7,
        App::notification("bob", "3"),
    ]});
    let answer = read(app.request("POST", "/notifications/batch").json(&items)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let items = answer.body["notifications"].as_array().unwrap();
    assert_eq!(items.len(), 6);
    assert!(items[0]["notification_id"].is_string() && items[0]["created_at"].is_string());
    assert_eq!((&items[2]["code"], &items[2]["details"][0]["field"]), (&json!("validation_failed"), &json!("title")));
    assert_eq!(
        (&items[3]["code"], &items[3]["notification_id"]),
        (&json!("duplicate_external_id"), &items[1]["notification_id"])
    );
    assert_eq!(items[4]["code"], "validation_failed");
    assert_eq!(app.user("alice").await.titles("").await, ["2", "1"]);
    let events = app.events("").await.body;
    assert_eq!(events["total"], 3);
    let offsets: Vec<_> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event_data"]["title"].as_str().unwrap())
        .collect();
    assert_eq!(offsets, ["3", "2", "1"], "in the order of the request");
    for bad in
        [json!({}), json!({"notifications": []}), json!({"notifications": {}}), json!({"notifications": vec![1; 1001]})]
    {
        let answer = read(app.request("POST", "/notifications/batch").json(&bad)).await;
        assert_eq!((answer.status, answer.fields()), (400, vec!["notifications"]));
    }
}

async fn a_thousand_land_together_and_so_do_a_thousand_users_of_one_content(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let many: Vec<_> = (0..1000).map(|n| App::notification("alice", n)).collect();
    let answer = read(app.request("POST", "/notifications/batch").json(&json!({"notifications": many}))).await;
    assert_eq!(answer.status, 200);
    let users: Vec<_> =
        (0..1000).map(|n| json!(if n == 7 { "no blanks please".to_owned() } else { format!("u{n}") })).collect();
    let body = json!({"user_ids": users, "title": "For all", "body": "b", "priority": "high"});
    let answer = read(app.request("POST", "/notifications/batch").json(&body)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["notifications"][7]["details"][0]["field"], "user_ids");
    assert_eq!(number(&hub, "select count(*) from notification_state").await, 1999);
    assert_eq!(number(&hub, "select count(distinct app_offset) from platform_events").await, 1999);
    assert_eq!(number(&hub, "select max(app_offset) from platform_events").await, 1999);
    assert_eq!(app.inbox("u999").titles("").await, ["For all"]);
    assert_eq!(app.inbox("alice").feed("").await.body["total"], 1000);
    let with_id = json!({"user_ids": ["a", "b"], "title": "t", "body": "b", "external_id": "x"});
    let answer = read(app.request("POST", "/notifications/batch").json(&with_id)).await;
    assert_eq!((answer.status, answer.fields()), (400, vec!["external_id"]));
}

async fn a_bad_notification_names_every_faulty_field_and_writes_nothing(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let good = App::notification("alice", "t");
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    for (field, value) in [
        ("user_id", json!("")),
        ("user_id", json!(7)),
        ("title", json!("")),
        ("title", json!("x".repeat(201))),
        ("title", json!("<b></b>")),
        ("body", json!("x".repeat(1001))),
        ("body", Value::Null),
        ("priority", json!("loud")),
        ("priority", json!(1)),
        ("external_id", json!("x".repeat(256))),
        ("notification_type", json!("x".repeat(101))),
        ("action_url", json!("javascript:alert(1)")),
        ("action_url", json!(" JAVASCRIPT:alert(1)")),
        ("action_url", json!("/relative")),
        ("image_url", json!("app://x")),
        ("icon_url", json!("data:image/png;base64,x")),
        ("action_label", json!("x".repeat(51))),
        ("context_data", json!([])),
        ("context_data", json!({"x": "y".repeat(65 * 1024)})),
        ("expires_at", json!("2020-01-01T00:00:00Z")),
        ("expires_at", json!("soon")),
        ("titel", json!("x")),
    ] {
        let answer = app.create(&with(field, value.clone())).await;
        assert_eq!((answer.status, answer.code()), (400, "validation_failed"), "{field} {value}");
        assert_eq!(answer.fields(), [field], "{value}");
    }
    assert_eq!(app.create(&json!({})).await.fields(), ["body", "title", "user_id"]);
    assert_eq!(number(&hub, "select count(*) from platform_notifications").await, 0);
}

async fn the_same_key_creates_once(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let body = App::notification("alice", "once");
    let send = |body: Value| read(app.request("POST", "/notifications").header("Idempotency-Key", "k1").json(&body));
    let (first, second) = (send(body.clone()).await, send(body).await);
    assert_eq!((first.status, second.status), (201, 201));
    assert_eq!(first.body, second.body);
    assert_eq!((second.header("idempotency-replayed"), second.header("location")), ("true", first.header("location")));
    let other = send(App::notification("alice", "other")).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_mismatch"));
    assert_eq!(app.inbox("alice").titles("").await, ["once"]);
}

async fn a_conflict_lets_its_key_go(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let mut body = App::notification("alice", "x");
    body["external_id"] = json!("ext");
    let first = app.notify(&body).await;
    let send = || read(app.request("POST", "/notifications").header("Idempotency-Key", "k").json(&body));
    assert_eq!(send().await.status, 409);
    assert_eq!(send().await.status, 409, "and not an empty answer kept for the key");
    assert_eq!(app.inbox("alice").delete(&first).await.status, 204);
    assert_eq!(send().await.status, 201);
}

async fn the_budget_is_501_requests_less_one(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| config.rate_limits.enabled = true).await;
    let app = hub.app("a").await;
    let batch: Vec<_> = (0..498).map(|n| App::notification("alice", n)).collect();
    let answer = read(app.request("POST", "/notifications/batch").json(&json!({"notifications": batch}))).await;
    assert_eq!((answer.status, answer.header("x-ratelimit-remaining")), (200, "2"));
    assert_eq!(app.create(&App::notification("alice", "499")).await.status, 201);
    assert_eq!(app.create(&App::notification("alice", "500")).await.status, 201);
    let refused = app.create(&App::notification("alice", "501")).await;
    assert_eq!((refused.status, refused.code()), (429, "rate_limited"));
    assert_eq!(refused.header("x-ratelimit-limit"), "500");
    assert_eq!(app.inbox("alice").feed("").await.body["total"], 500);

    // A user's rate limit is the user's own.
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let path = "/api/v1/users/alice/notifications";
    let before = send(hub.addr, "GET", path, Some(&alice.credential), &[], None).await;
    assert_eq!(before.header("x-ratelimit-remaining"), "999");
    let theirs = bob.feed("").await;
    assert_eq!((theirs.header("x-ratelimit-remaining"), theirs.header("x-ratelimit-limit")), ("999", "1000"));
}

async fn creation_is_written_down_without_content(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let id = app.notify(&App::notification("alice", "secret words")).await;
    app.user("alice").await.set(&id, "read").await;
    let count = |action: &str, actor: &str| {
        format!(
            "select count(*) from audit_log where action = '{action}' and actor = '{actor}' and subject = '{id}' and app_id = 'a' and ip_address is not null"
        )
    };
    assert_eq!(number(&hub, &count("notification.created", "a")).await, 1);
    assert_eq!(number(&hub, &count("notification.read", "user:alice")).await, 1);
}
