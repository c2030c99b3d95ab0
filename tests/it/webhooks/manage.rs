//! Apps register, list and change webhooks (T009–T012, T032–T035).

use serde_json::{Value, json};
use standardwebhooks::Webhook;

use super::{start, start_with};
use crate::{
    harness::{Backend, TestHub, callers::read},
    on_both_stores,
};

on_both_stores!(
    a_webhook_is_registered_changed_and_deleted,
    a_bad_webhook_names_its_fields,
    webhooks_of_others_are_not_there,
    the_budget_is_51_requests_less_one,
    both_signatures_verify_and_an_exchanged_secret_signs_beside_the_new_one,
    a_test_says_how_it_went,
    secrets_are_sealed_at_rest,
    webhooks_are_listed_in_pages_up_to_the_number_that_an_app_may_have,
    a_body_is_as_long_as_the_webhook_asks_for,
);

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

async fn webhooks_are_listed_in_pages_up_to_the_number_that_an_app_may_have(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| config.webhooks.max_per_app = 5).await;
    let (app, other) = (hub.app("a").await, hub.app("b").await);
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(app.webhook(&format!("https://hooks.example.com/{n}"), &["**"]).await["webhook_id"].clone());
    }
    let one_more = json!({"webhook_url": "https://hooks.example.com/", "subscribed_events": ["**"]});
    let refused = read(app.request("POST", "/webhooks").json(&one_more)).await;
    assert_eq!((refused.status, refused.code()), (409, "conflict"), "{}", refused.body);
    other.webhook("https://hooks.example.com/", &["**"]).await;
    let (mut listed, mut query) = (Vec::new(), "?limit=2".to_owned());
    loop {
        let page = read(app.request("GET", &format!("/webhooks{query}"))).await.body;
        listed.extend(page["webhooks"].as_array().unwrap().iter().map(|one| one["webhook_id"].clone()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        query = format!("?limit=2&cursor={next}");
    }
    assert_eq!(listed, made);
    for (query, field) in [("?page=2", "page"), ("?limit=101", "limit"), ("?cursor=x", "cursor")] {
        assert_eq!(read(app.request("GET", &format!("/webhooks{query}"))).await.fields(), [field]);
    }
    app.webhook_request("DELETE", &made[0], "", None).await;
    let at_once = (0..8).map(|_| read(app.request("POST", "/webhooks").json(&one_more)));
    let mut statuses: Vec<_> = futures_util::future::join_all(at_once).await.iter().map(|one| one.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
}

async fn a_body_is_as_long_as_the_webhook_asks_for(backend: Backend) {
    let (_hub, app, receiver) = start(backend).await;
    let thin =
        ["app_id", "entity_id", "entity_type", "event_id", "event_type", "offset", "timestamp", "user_id"].to_vec();
    let mut no_data = [&thin[..], &["created_at", "event_category", "event_data"]].concat();
    no_data.sort_unstable();
    let mut full = [&no_data[..], &["data"]].concat();
    full.sort_unstable();
    let mut ids = Vec::new();
    for form in ["full", "no_data", "thin"] {
        let path = receiver.url(&format!("/{form}"));
        let body = json!({"webhook_url": path, "subscribed_events": ["**"], "payload": form});
        let made = app.webhook_with(&body).await;
        assert_eq!(made["payload"], form);
        ids.push(made["webhook_id"].clone());
    }
    app.publish("alice", "x").await;
    for (form, expected) in [("full", &full), ("no_data", &no_data), ("thin", &thin)] {
        let received = receiver.wait_for(&format!("/{form}"), 1).await.remove(0);
        let fields: Vec<_> = received.body.as_object().unwrap().keys().cloned().collect();
        assert_eq!(fields, *expected, "{form}");
    }
    let changed = app.webhook_request("PATCH", &ids[0], "", Some(json!({"payload": "thin"}))).await;
    assert_eq!(changed.body["payload"], "thin");
    let refused = app.webhook_request("PATCH", &ids[0], "", Some(json!({"payload": "tiny"}))).await;
    assert_eq!((refused.status, refused.fields()), (400, vec!["payload"]));
}

async fn a_bad_webhook_names_its_fields(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let good = json!({"webhook_url": "https://hooks.example.com/", "subscribed_events": ["**"]});
    for (field, value) in [
        ("webhook_url", json!("http://hooks.example.com/")),
        ("webhook_url", json!("https://user:pass@hooks.example.com/")),
        ("webhook_url", json!("https://hooks.example.com/#x")),
        ("webhook_url", json!("https:hooks.example.com/")),
        ("webhook_url", json!("https:/hooks.example.com/")),
        ("webhook_url", json!("https:\\\\hooks.example.com/")),
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
        assert_eq!(other.webhook_request(method, &id, path, None).await.status, 403, "under its own address");
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
    // A second rotation leaves two valid secrets, not three.
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

async fn secrets_are_sealed_at_rest(backend: Backend) {
    let (hub, app, receiver) = start(backend).await;
    let made = app.webhook(&receiver.url("/ok"), &["**"]).await;
    let secret = made["webhook_secret"].as_str().unwrap();
    for (id, sealed, _) in hub.database.store().await.webhook_secrets().await.unwrap() {
        assert_eq!(id.to_string(), made["webhook_id"].as_str().unwrap());
        assert!(!sealed.windows(8).any(|window| secret.as_bytes().windows(8).any(|other| other == window)));
    }
}
