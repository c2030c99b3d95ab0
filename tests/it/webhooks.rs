//! Webhooks: registered, signed, retried, disabled, repaired (contract §7; T009–T012, T018, T019).

use std::collections::HashSet;

use serde_json::{Value, json};
use standardwebhooks::Webhook;

use crate::{
    harness::{App, Backend, Database, HubProcess, Receiver, TestHub, callers::read, eventually, process::create_app},
    on_both_stores,
};

on_both_stores!(
    a_webhook_is_registered_changed_and_deleted,
    a_bad_webhook_names_its_fields,
    webhooks_of_others_are_not_there,
    the_budget_is_51_requests_less_one,
    t018_an_app_subscribes_to_platform_events,
    t019_a_failing_endpoint_is_tried_again_and_disabled,
    both_signatures_verify_and_an_exchanged_secret_signs_beside_the_new_one,
    only_what_is_subscribed_to_is_owed,
    a_receivers_answer_is_kept_and_redirects_are_not_followed,
    retry_after_is_honoured,
    gone_disables_at_once_and_what_is_owed_is_kept,
    a_test_says_how_it_went,
    a_delivery_can_be_made_again,
    a_recovery_queues_what_was_missed,
    a_hanging_and_a_refusing_endpoint_delay_nobody,
    a_dead_endpoint_is_probed_and_not_hammered,
    closed_addresses_are_not_dialled,
    secrets_are_sealed_at_rest,
    killed_with_deliveries_pending_every_event_arrives,
    the_encryption_key_can_be_changed,
    a_recovery_goes_on_where_it_stood,
    a_webhook_that_keeps_failing_warns,
);

async fn start(backend: Backend) -> (TestHub, App, Receiver) {
    start_with(backend, |_| {}).await
}

async fn start_with(backend: Backend, change: impl FnOnce(&mut oriva_hub::config::Config)) -> (TestHub, App, Receiver) {
    let hub = TestHub::start_with(backend, |config| {
        config.webhooks.allow_http = true;
        change(config);
    })
    .await;
    let app = hub.app("work-buddy").await;
    (hub, app, Receiver::start().await)
}

async fn a_webhook_is_registered_changed_and_deleted(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let list = async || read(app.request("GET", "/webhooks")).await.body["webhooks"].as_array().unwrap().clone();
    assert_eq!(list().await, Vec::<Value>::new());
    let made = app.webhook("https://hooks.example.com/x", &["notification.*", "notification.*"]).await;
    assert!(made["webhook_secret"].as_str().unwrap().starts_with("whsec_"));
    assert_eq!((&made["max_retries"], &made["retry_backoff_seconds"]), (&json!(5), &json!(1)));
    assert_eq!((&made["is_active"], &made["subscribed_events"]), (&json!(true), &json!(["notification.*"])));
    let id = made["webhook_id"].clone();
    let listed = list().await;
    assert_eq!((listed.len(), &listed[0]["webhook_id"]), (1, &id));
    assert!(listed[0].get("webhook_secret").is_none(), "shown once");
    let change = json!({
        "webhook_url": "https://hooks.example.com/y", "subscribed_events": ["**"], "is_active": false,
        "description": "ours", "max_retries": 10, "retry_backoff_seconds": 60
    });
    let changed = app.webhook_request("PATCH", &id, "", Some(change.clone())).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    for (field, value) in change.as_object().unwrap() {
        assert_eq!(changed.body[field], *value, "{field}");
    }
    let kept = app.webhook_request("PATCH", &id, "", Some(json!({"description": null}))).await.body;
    assert_eq!((&kept["description"], &kept["max_retries"]), (&Value::Null, &json!(10)));
    assert_eq!(app.webhook_request("GET", &id, "", None).await.body["webhook_url"], "https://hooks.example.com/y");
    assert_eq!(app.webhook_request("DELETE", &id, "", None).await.status, 204);
    for (method, path, body) in [
        ("GET", "", None),
        ("DELETE", "", None),
        ("PATCH", "", Some(json!({"is_active": true}))),
        ("POST", "/rotate-secret", None),
        ("POST", "/test", None),
        ("GET", "/deliveries", None),
        ("GET", "/recover", None),
        ("POST", "/recover", Some(json!({"since": "2026-01-01T00:00:00Z"}))),
        ("POST", "/deliveries/018f0000-0000-7000-8000-000000000000/redeliver", None),
    ] {
        let answer = app.webhook_request(method, &id, path, body).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{method} {path}");
    }
    assert_eq!(list().await, Vec::<Value>::new());
}

async fn a_bad_webhook_names_its_fields(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let good = json!({"webhook_url": "https://hooks.example.com/", "subscribed_events": ["**"]});
    for (field, value) in [
        ("webhook_url", json!("http://hooks.example.com/")),
        ("webhook_url", json!("https://user:pass@hooks.example.com/")),
        ("webhook_url", json!("https://hooks.example.com/#x")),
        ("webhook_url", json!("https://127.0.0.1/")),
        ("webhook_url", json!("https://[::ffff:169.254.169.254]/")),
        ("webhook_url", json!(7)),
        ("subscribed_events", json!([])),
        ("subscribed_events", json!(["Bad Pattern"])),
        ("subscribed_events", json!([1])),
        ("subscribed_events", json!(vec!["a.b"; 101])),
        ("subscribed_events", json!("**")),
        ("max_retries", json!(0)),
        ("max_retries", json!(11)),
        ("retry_backoff_seconds", json!(61)),
        ("description", json!("x".repeat(501))),
        ("webhok_url", json!("x")),
    ] {
        let mut body = good.clone();
        body[field] = value.clone();
        let answer = read(app.request("POST", "/webhooks").json(&body)).await;
        assert_eq!((answer.status, answer.fields()), (400, vec![field]), "{value}");
    }
    assert_eq!(
        read(app.request("POST", "/webhooks").json(&json!({}))).await.fields(),
        ["subscribed_events", "webhook_url"]
    );
    let id = app.webhook_with(&good).await["webhook_id"].clone();
    for (field, value) in [("subscribed_events", json!([])), ("is_active", json!("yes")), ("secret", json!("x"))] {
        let answer = app.webhook_request("PATCH", &id, "", Some(json!({field: value}))).await;
        assert_eq!((answer.status, answer.fields()), (400, vec![field]));
    }
    assert_eq!(app.webhook_request("POST", &id, "/recover", Some(json!({}))).await.fields(), ["since"]);
    assert_eq!(app.webhook_request("GET", &id, "/deliveries?status=lost", None).await.fields(), ["status"]);
}

async fn webhooks_of_others_are_not_there(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other) = (hub.app("a").await, hub.app("b").await);
    let id = app.webhook("https://hooks.example.com/", &["**"]).await["webhook_id"].clone();
    assert_eq!(read(other.request("GET", "/webhooks")).await.body["webhooks"], json!([]));
    for (method, path) in
        [("GET", ""), ("DELETE", ""), ("POST", "/rotate-secret"), ("POST", "/test"), ("GET", "/deliveries")]
    {
        assert_eq!(other.webhook_request(method, &id, path, None).await.status, 404, "under its own address");
        let url = format!("/../a/webhooks/{}{path}", id.as_str().unwrap());
        assert_eq!(read(other.request(method, &url)).await.status, 403, "{method} {path}");
    }
    assert_eq!(app.webhook_request("GET", &id, "", None).await.status, 200);
}

async fn the_budget_is_51_requests_less_one(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| config.rate_limits.enabled = true).await;
    let app = hub.app("a").await;
    for left in (0..50).rev() {
        let answer = read(app.request("GET", "/webhooks")).await;
        assert_eq!((answer.status, answer.header("x-ratelimit-remaining")), (200, &*left.to_string()));
    }
    assert_eq!(read(app.request("GET", "/webhooks")).await.status, 429);
}

async fn t018_an_app_subscribes_to_platform_events(backend: Backend) {
    let (hub, app, receiver) = start(backend).await;
    let webhook = app.webhook(&receiver.url("/ok"), &["notification.dismissed"]).await;
    let id = app.notify(&App::notification("alice", "x")).await;
    hub.platform_app("core").await.user("alice").await.set(&id, "dismissed").await;
    let request = receiver.wait_for("/ok", 1).await.remove(0);
    let secret = webhook["webhook_secret"].as_str().unwrap();
    Webhook::new(secret).unwrap().verify(&request.raw, &request.headers).unwrap();
    let event = &app.events("?event_type=notification.dismissed").await.body["events"][0];
    for field in
        ["event_id", "event_category", "timestamp", "app_id", "user_id", "entity_type", "entity_id", "event_data"]
    {
        assert_eq!(request.body[field], event[field], "{field}");
    }
    assert_eq!(request.body["event_type"], "notification.dismissed");
    let data = &request.body["data"];
    assert_eq!((&data["notification_id"], &data["entity_id"]), (&json!(id), &json!(id)));
    assert_eq!((&data["status"], &data["dismissed_from"]), (&json!("dismissed"), &json!("core")));
    assert_eq!(request.header("x-oriva-event-id"), event["event_id"].as_str().unwrap());
    assert_eq!(request.header("webhook-id"), event["event_id"].as_str().unwrap());
    assert_eq!(
        (request.header("x-oriva-event-type"), request.header("x-oriva-delivery-attempt")),
        ("notification.dismissed", "1")
    );
    assert_eq!(request.header("content-type"), "application/json");
    assert!(request.header("user-agent").starts_with("oriva-hub/"));
    let hook = webhook["webhook_id"].clone();
    eventually("it is written down", async || app.deliveries(&hook, "?status=succeeded").await.len() == 1).await;
    let delivery = app.deliveries(&hook, "").await.remove(0);
    assert_eq!(request.header("x-oriva-delivery-id"), delivery["delivery_id"].as_str().unwrap());
    let attempt = &delivery["attempts"][0];
    assert_eq!(
        (&attempt["status_code"], &attempt["success"], &attempt["response_body"]),
        (&json!(200), &json!(true), &json!("thank you"))
    );
    let figures = app.webhook_request("GET", &hook, "", None).await.body;
    assert_eq!((&figures["total_deliveries"], &figures["consecutive_failures"]), (&json!(1), &json!(0)));
    assert!(figures["last_success_at"].is_string() && figures["last_failure_at"].is_null());
    assert_eq!(
        super::notifications::number(
            &hub,
            "select count(*) from webhook_delivery_log where success and event_id is not null"
        )
        .await,
        1
    );
    drop(hub);
}

async fn t019_a_failing_endpoint_is_tried_again_and_disabled(backend: Backend) {
    let (hub, app, receiver) = start_with(backend, |config| config.webhooks.disable_after_failures = 8).await;
    let body = json!({"webhook_url": receiver.url("/status/500"), "subscribed_events": ["**"], "max_retries": 2});
    let id = app.webhook_with(&body).await["webhook_id"].clone();
    let mut server = app.connect_app().await;
    app.publish("alice", "1").await;
    let tries = receiver.wait_for("/status/500", 3).await;
    let numbers: Vec<_> = tries.iter().map(|one| one.header("x-oriva-delivery-attempt")).collect();
    assert_eq!(numbers, ["1", "2", "3"]);
    let ids: HashSet<_> = tries.iter().map(|one| one.header("webhook-id")).collect();
    assert_eq!(ids.len(), 1, "the same over attempts");
    for (pair, expected) in tries.windows(2).zip([1.0, 2.0]) {
        let pause = (pair[1].at - pair[0].at).as_secs_f64();
        assert!(pause > expected * 0.9 - 0.01, "{pause} s is not before {expected} s less a tenth");
    }
    eventually("it is given up", async || app.deliveries(&id, "?status=failed").await.len() == 1).await;
    let failed = app.deliveries(&id, "").await.remove(0);
    assert_eq!(
        (failed["attempts"].as_array().unwrap().len(), &failed["attempts"][2]["error_message"]),
        (3, &json!("answered 500"))
    );
    for n in 0..3 {
        app.publish("alice", n).await;
    }
    eventually("it is disabled", async || app.webhook_request("GET", &id, "", None).await.body["is_active"] == false)
        .await;
    let webhook = app.webhook_request("GET", &id, "", None).await.body;
    assert!(webhook["disabled_reason"].as_str().unwrap().contains("in a row"), "{webhook}");
    assert!(webhook["total_failures"].as_u64().unwrap() >= 8);
    let frame = server.frame().await;
    assert_eq!(
        (&frame["type"], &frame["webhook_id"], &frame["reason"]),
        (&json!("webhook.disabled"), &id, &webhook["disabled_reason"])
    );
    // What it is owed is kept, and nothing new is.
    let owed = app.deliveries(&id, "").await.len();
    app.publish("alice", "while disabled").await;
    assert_eq!(app.deliveries(&id, "").await.len(), owed);
    let change = json!({"is_active": true, "webhook_url": receiver.url("/ok")});
    let enabled = app.webhook_request("PATCH", &id, "", Some(change)).await.body;
    assert_eq!((&enabled["consecutive_failures"], &enabled["disabled_reason"]), (&json!(0), &Value::Null));
    receiver.wait_for("/ok", owed - 1).await;
    drop(hub);
}

async fn both_signatures_verify_and_an_exchanged_secret_signs_beside_the_new_one(backend: Backend) {
    let (_hub, app, receiver) = start(backend).await;
    let made = app.webhook(&receiver.url("/ok"), &["**"]).await;
    let rotated = app.webhook_request("POST", &made["webhook_id"], "/rotate-secret", None).await.body;
    let (old, new) = (made["webhook_secret"].as_str().unwrap(), rotated["webhook_secret"].as_str().unwrap());
    assert!(old != new && rotated["previous_secret_expires_at"].is_string());
    app.publish("alice", "x").await;
    let request = receiver.wait_for("/ok", 1).await.remove(0);
    for secret in [old, new] {
        Webhook::new(secret).unwrap().verify(&request.raw, &request.headers).unwrap();
    }
    assert_eq!(request.header("webhook-signature").split(' ').count(), 2);
    for (header, secret) in [("x-oriva-signature", new), ("x-oriva-signature-previous", old)] {
        assert_eq!(request.header(header), format!("sha256={}", hmac_hex(secret, &request.raw)));
    }
    // A second exchange leaves two, not three.
    app.webhook_request("POST", &made["webhook_id"], "/rotate-secret", None).await;
    app.publish("alice", "y").await;
    let request = receiver.wait_for("/ok", 2).await.remove(1);
    assert!(Webhook::new(old).unwrap().verify(&request.raw, &request.headers).is_err());
    Webhook::new(new).unwrap().verify(&request.raw, &request.headers).unwrap();
}

fn hmac_hex(secret: &str, body: &[u8]) -> String {
    use hmac::Mac as _;
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn only_what_is_subscribed_to_is_owed(backend: Backend) {
    let (hub, app, receiver) = start(backend).await;
    let other = hub.app("other").await;
    app.publish("alice", "before there was one").await;
    let id = app.webhook(&receiver.url("/ok"), &["notification.dismissed", "session.*"]).await["webhook_id"].clone();
    let publish = async |app: &App, category: &str, event_type: &str| {
        let mut event = App::event("alice", format!("{} {category}.{event_type}", app.id));
        event["event_category"] = json!(category);
        event["event_type"] = json!(event_type);
        assert_eq!(app.post(&event).await.status, 200);
    };
    for (category, event_type) in
        [("notification", "created"), ("notification", "dismissed"), ("session", "started"), ("user", "dismissed")]
    {
        publish(&app, category, event_type).await;
        publish(&other, category, event_type).await;
    }
    app.webhook_request("PATCH", &id, "", Some(json!({"subscribed_events": ["user.*"]}))).await;
    publish(&app, "user", "changed").await;
    publish(&app, "session", "ended").await;
    let received = receiver.wait_for("/ok", 3).await;
    let mut seen: Vec<_> = received.iter().map(|one| one.body["entity_id"].as_str().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, ["work-buddy notification.dismissed", "work-buddy session.started", "work-buddy user.changed"]);
    assert_eq!(app.deliveries(&id, "").await.len(), 3);
    assert_eq!(app.deliveries(&id, "?event_type=session.started").await.len(), 1);
    let page = app.webhook_request("GET", &id, "/deliveries?limit=2", None).await.body;
    let next = page["next_cursor"].as_str().unwrap();
    assert_eq!(app.deliveries(&id, &format!("?limit=2&cursor={next}")).await.len(), 1);
}

async fn a_receivers_answer_is_kept_and_redirects_are_not_followed(backend: Backend) {
    let (_hub, app, receiver) = start(backend).await;
    for (path, error) in [("/redirect", "answered 302; redirects are not followed"), ("/large", "answered 500")] {
        let id = app.webhook(&receiver.url(path), &["**"]).await["webhook_id"].clone();
        app.publish("alice", path).await;
        eventually("it was tried", async || app.deliveries(&id, "").await[0]["attempts"] != json!([])).await;
        let attempt = app.deliveries(&id, "").await[0]["attempts"][0].clone();
        assert_eq!((&attempt["success"], &attempt["error_message"]), (&json!(false), &json!(error)));
        assert!(attempt["response_body"].as_str().unwrap().len() <= 10 * 1024);
        app.webhook_request("DELETE", &id, "", None).await;
    }
    assert!(receiver.received_at("/ok").is_empty());
}

async fn retry_after_is_honoured(backend: Backend) {
    let (_hub, app, receiver) = start(backend).await;
    app.webhook(&receiver.url("/retry-after/3"), &["**"]).await;
    app.publish("alice", "x").await;
    let tries = receiver.wait_for("/retry-after/3", 2).await;
    assert!((tries[1].at - tries[0].at).as_secs_f64() > 2.95);
}

async fn gone_disables_at_once_and_what_is_owed_is_kept(backend: Backend) {
    let (_hub, app, receiver) = start(backend).await;
    let id = app.webhook(&receiver.url("/status/410"), &["**"]).await["webhook_id"].clone();
    app.publish("alice", "x").await;
    eventually("it is disabled", async || app.webhook_request("GET", &id, "", None).await.body["is_active"] == false)
        .await;
    let webhook = app.webhook_request("GET", &id, "", None).await.body;
    assert!(webhook["disabled_reason"].as_str().unwrap().contains("410"));
    assert_eq!(app.deliveries(&id, "?status=pending").await.len(), 1);
    app.webhook_request("PATCH", &id, "", Some(json!({"webhook_url": receiver.url("/ok"), "is_active": true}))).await;
    receiver.wait_for("/ok", 1).await;
}

async fn a_test_says_how_it_went(backend: Backend) {
    let (_hub, app, receiver) = start_with(backend, |config| config.webhooks.timeout_seconds = 1).await;
    let id = app.webhook(&receiver.url("/ok"), &["notification.created"]).await["webhook_id"].clone();
    let test = async || app.webhook_request("POST", &id, "/test", None).await.body;
    let well = test().await;
    assert_eq!(
        (&well["success"], &well["status_code"], &well["error_message"]),
        (&json!(true), &json!(200), &Value::Null)
    );
    assert!(well["response_time_ms"].is_u64());
    let request = receiver.wait_for("/ok", 1).await.remove(0);
    assert_eq!(
        (request.header("x-oriva-event-type"), &request.body["event_type"]),
        ("webhook.test", &json!("webhook.test"))
    );
    for (path, code, error) in [("/status/404", json!(404), "answered 404"), ("/hang", Value::Null, "1 s")] {
        app.webhook_request("PATCH", &id, "", Some(json!({"webhook_url": receiver.url(path)}))).await;
        let badly = test().await;
        assert_eq!((&badly["success"], &badly["status_code"]), (&json!(false), &code));
        let message = badly["error_message"].as_str().unwrap();
        assert!(message.contains(error) || message == "timed out", "{message}");
    }
    app.webhook_request("PATCH", &id, "", Some(json!({"webhook_url": "http://127.0.0.1:1/"}))).await;
    assert!(test().await["error_message"].as_str().unwrap().starts_with("no connection"));
    assert_eq!(
        app.webhook_request("GET", &id, "", None).await.body["consecutive_failures"],
        0,
        "a test counts for nothing"
    );
}

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
        // Before there was a webhook.
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
    // Again: everything arrived, nothing is queued.
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

async fn a_hanging_and_a_refusing_endpoint_delay_nobody(backend: Backend) {
    let (hub, app, receiver) = start(backend).await;
    let (hangs, refuses) = (hub.app("hangs").await, hub.app("refuses").await);
    hangs.webhook(&receiver.url("/hang"), &["**"]).await;
    refuses.webhook("http://127.0.0.1:1/", &["**"]).await;
    app.webhook(&receiver.url("/ok"), &["**"]).await;
    let events: Vec<_> = (0..1000).map(|n| App::event("alice", n)).collect();
    for app in [&hangs, &refuses, &app] {
        assert_eq!(read(app.request("POST", "/events/batch").json(&json!({"events": events}))).await.status, 200);
    }
    receiver.wait_for("/hang", 8).await;
    let arrived = receiver.wait_for("/ok", 1000).await;
    let distinct: HashSet<_> = arrived.iter().map(|one| one.body["entity_id"].as_str().unwrap()).collect();
    assert_eq!(distinct.len(), 1000);
    assert_eq!(receiver.received_at("/hang").len(), 8, "as many at once as it may have, none of them done");
}

async fn a_dead_endpoint_is_probed_and_not_hammered(backend: Backend) {
    let (hub, app, receiver) = start(backend).await;
    let id = app.webhook(&receiver.url("/status/503"), &["**"]).await["webhook_id"].clone();
    let events: Vec<_> = (0..1000).map(|n| App::event("alice", n)).collect();
    assert_eq!(read(app.request("POST", "/events/batch").json(&json!({"events": events}))).await.status, 200);
    receiver.wait_for("/status/503", 10).await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let tries = receiver.received_at("/status/503").len();
    assert!((10..30).contains(&tries), "{tries} attempts, not five for each of a thousand");
    let untouched = "select count(*) from webhook_deliveries where attempts = 0 and status = 'pending'";
    assert!(super::notifications::number(&hub, untouched).await > 970);
    app.webhook_request("PATCH", &id, "", Some(json!({"webhook_url": receiver.url("/ok")}))).await;
    receiver.wait_for("/ok", 1000).await;
}

async fn closed_addresses_are_not_dialled(backend: Backend) {
    // https to loopback is a name's matter: it passes the registration and is judged when it is dialled.
    let (_hub, app, receiver) = start(backend).await;
    let id =
        app.webhook(&format!("https://localhost:{}/ok", receiver.addr.port()), &["**"]).await["webhook_id"].clone();
    let answer = app.webhook_request("POST", &id, "/test", None).await.body;
    assert!(answer["error_message"].as_str().unwrap().contains("the address is not allowed"), "{answer}");
    app.publish("alice", "x").await;
    eventually("it was refused", async || app.deliveries(&id, "").await[0]["attempts"] != json!([])).await;
    assert!(receiver.received().is_empty());
}

async fn secrets_are_sealed_at_rest(backend: Backend) {
    let (hub, app, receiver) = start(backend).await;
    let made = app.webhook(&receiver.url("/ok"), &["**"]).await;
    let secret = made["webhook_secret"].as_str().unwrap();
    for (id, sealed, _) in hub.database.store().await.webhook_secrets().await.unwrap() {
        assert_eq!(id.to_string(), made["webhook_id"].as_str().unwrap());
        assert!(!sealed.windows(8).any(|window| secret.as_bytes().windows(8).any(|other| other == window)));
    }
}

const PROCESS: [(&str, &str); 2] =
    [("ORIVA_HUB__WEBHOOKS__ALLOW_HTTP", "true"), ("ORIVA_HUB__WEBHOOKS__TIMEOUT_SECONDS", "2")];

/// Publishes a batch; the ids of its events.
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
    // Under the new key alone, the secret cannot be opened: nothing is sent, nothing is lost.
    let keys = |keys: &[(&'static str, &'static str)]| [&PROCESS[..], keys].concat();
    let process = HubProcess::start(&database, &keys(&[(KEY, NEW)])).await;
    let app = app.at(process.addr);
    app.publish("alice", "x").await;
    let test = app.webhook_request("POST", &made["webhook_id"], "/test", None).await;
    assert_eq!((test.status, test.code()), (409, "conflict"));
    eventually("it is said", async || process.log().contains("previous_encryption_keys")).await;
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
    // The node that began it is gone; another goes on.
    let process = HubProcess::start(&database, &PROCESS).await;
    eventually("every event arrived", async || arrived(&receiver) == expected).await;
    let progress = app.at(process.addr).webhook_request("GET", &made["webhook_id"], "/recover", None).await.body;
    assert_eq!((&progress["status"], &progress["queued"]), (&json!("finished"), &json!(90)));
}

async fn a_webhook_that_keeps_failing_warns(backend: Backend) {
    let (_hub, app, receiver) = start_with(backend, |config| config.webhooks.disable_after_failures = 10).await;
    let body = json!({"webhook_url": receiver.url("/switch"), "subscribed_events": ["**"], "max_retries": 1});
    let id = app.webhook_with(&body).await["webhook_id"].clone();
    let webhook = async || app.webhook_request("GET", &id, "", None).await.body;
    for n in 0..2 {
        app.publish("alice", n).await;
    }
    eventually("four failed", async || webhook().await["consecutive_failures"] == 4).await;
    assert_eq!(webhook().await["warning"], Value::Null);
    app.publish("alice", "x").await;
    eventually("half of them failed", async || webhook().await["consecutive_failures"].as_u64() >= Some(5)).await;
    assert!(webhook().await["warning"].as_str().unwrap().contains("at 10 the webhook is disabled"));
    receiver.heal();
    app.publish("alice", "y").await;
    eventually("it works again", async || webhook().await["consecutive_failures"] == 0).await;
    assert_eq!(webhook().await["warning"], Value::Null);
}

/// No store's matter. The receiver's certificate is signed by an authority that the system is told of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_the_certificate_must_be_good() {
    let database = Database::new(Backend::Sqlite).await;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let authorities = database.folder.path().join("authorities.pem");
    std::fs::write(&authorities, made.cert.pem()).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let receiver = Receiver::start_tls(tls).await;
    let url = |host: &str| format!("https://{host}:{}/ok", receiver.addr.port());
    let authorities = authorities.to_str().unwrap();
    // `localhost` may be the IPv6 loopback too, and all of a name's addresses must be open.
    let networks = ("ORIVA_HUB__WEBHOOKS__ALLOWED_NETWORKS", "127.0.0.0/8,::1/128");
    let process = HubProcess::start(&database, &[networks, ("SSL_CERT_FILE", authorities)]).await;
    let app = create_app(&database, process.addr, "a", false);
    let id = app.webhook(&url("localhost"), &["**"]).await["webhook_id"].clone();
    let test = async || app.webhook_request("POST", &id, "/test", None).await.body;
    let answer = test().await;
    assert_eq!(answer["success"], true, "{answer}");
    app.publish("alice", "x").await;
    receiver.wait_for("/ok", 2).await;
    app.webhook_request("PATCH", &id, "", Some(json!({"webhook_url": url("127.0.0.1")}))).await;
    let answer = test().await;
    assert_eq!(answer["success"], false, "the certificate names another host: {answer}");
    process.kill();
    let process = HubProcess::start(&database, &[networks]).await;
    let app = app.at(process.addr);
    app.webhook_request("PATCH", &id, "", Some(json!({"webhook_url": url("localhost")}))).await;
    let answer = app.webhook_request("POST", &id, "/test", None).await.body;
    assert_eq!(answer["success"], false, "an authority that nobody knows: {answer}");
    assert_eq!(receiver.received_at("/ok").len(), 2);
}

/// PostgreSQL alone: two nodes at one store.
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

/// Not a timing: the plans. What a dead endpoint is owed is walked past by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outbox_is_read_by_index() {
    use sqlx::{Connection as _, Row as _};
    let database = Database::new(Backend::Sqlite).await;
    let _store = database.store().await;
    let mut connection = sqlx::SqliteConnection::connect(&database.url).await.unwrap();
    for (sql, plan) in [
        (
            "select webhook_id from webhook_deliveries where status = 'delivering' and lease_until <= 1",
            "SEARCH webhook_deliveries USING INDEX webhook_deliveries_leased (lease_until<?)",
        ),
        (
            "select id from webhook_deliveries where webhook_id = x'00' and status = 'pending' and next_attempt_at <= 1 \
             order by next_attempt_at limit 8",
            "SEARCH webhook_deliveries USING INDEX webhook_deliveries_queue (webhook_id=? AND next_attempt_at<?)",
        ),
        (
            "select min(next_attempt_at) from webhook_deliveries where webhook_id = x'00' and status = 'pending'",
            "SEARCH webhook_deliveries USING COVERING INDEX webhook_deliveries_queue (webhook_id=?)",
        ),
    ] {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("explain query plan {sql}")))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let steps: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        let (steps, plan) = (steps.join("; ").replace("COVERING ", ""), plan.replace("COVERING ", ""));
        assert_eq!(steps, plan);
    }
}
