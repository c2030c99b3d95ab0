//! Deliveries: which events are sent, how they are sent, and that a failing endpoint delays no other (T018, T019,
//! T037).

use std::collections::HashSet;

use serde_json::{Value, json};
use standardwebhooks::Webhook;

use super::{start, start_with};
use crate::{
    harness::{
        App, Backend, Database, HubProcess, Receiver, callers::read, eventually, process::create_app, receiver::tls_of,
    },
    notifications::number,
    on_both_stores,
};

on_both_stores!(
    t018_an_app_subscribes_to_platform_events,
    t019_a_failing_endpoint_is_tried_again_and_disabled,
    only_what_is_subscribed_to_is_owed,
    a_receivers_answer_is_kept_and_redirects_are_not_followed,
    retry_after_is_honoured,
    gone_disables_at_once_and_what_is_owed_is_kept,
    a_hanging_and_a_refusing_endpoint_delay_nobody,
    a_dead_endpoint_is_probed_and_not_hammered,
    closed_addresses_are_not_dialled,
    the_status_counts_whatever_becomes_of_the_body,
    an_attempt_is_written_down_once_and_an_arrival_counts_whoever_holds_it,
    a_webhook_that_keeps_failing_warns,
);

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
        number(&hub, "select count(*) from webhook_delivery_log where success and event_id is not null").await,
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
    // Pending deliveries are kept, and no new ones are added.
    let owed = app.deliveries(&id, "").await.len();
    app.publish("alice", "while disabled").await;
    assert_eq!(app.deliveries(&id, "").await.len(), owed);
    let change = json!({"is_active": true, "webhook_url": receiver.url("/ok")});
    let enabled = app.webhook_request("PATCH", &id, "", Some(change)).await.body;
    assert_eq!((&enabled["consecutive_failures"], &enabled["disabled_reason"]), (&json!(0), &Value::Null));
    receiver.wait_for("/ok", owed - 1).await;
    drop(hub);
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

async fn a_hanging_and_a_refusing_endpoint_delay_nobody(backend: Backend) {
    // There are two connections to the database. If a request held one, eight hanging requests would hold both.
    let (hub, app, receiver) = start_with(backend, |config| config.database.max_connections = 2).await;
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
    assert!(number(&hub, untouched).await > 970);
    app.webhook_request("PATCH", &id, "", Some(json!({"webhook_url": receiver.url("/ok")}))).await;
    receiver.wait_for("/ok", 1000).await;
}

async fn closed_addresses_are_not_dialled(backend: Backend) {
    // An https URL with a host name passes the registration. Its address is checked when it is dialled.
    let (_hub, app, receiver) = start(backend).await;
    let id =
        app.webhook(&format!("https://localhost:{}/ok", receiver.addr.port()), &["**"]).await["webhook_id"].clone();
    let answer = app.webhook_request("POST", &id, "/test", None).await.body;
    assert!(answer["error_message"].as_str().unwrap().contains("the address is not allowed"), "{answer}");
    app.publish("alice", "x").await;
    eventually("it was refused", async || app.deliveries(&id, "").await[0]["attempts"] != json!([])).await;
    assert!(receiver.received().is_empty());
}

async fn a_webhook_that_keeps_failing_warns(backend: Backend) {
    let (_hub, app, receiver) = start_with(backend, |config| config.webhooks.disable_after_failures = 10).await;
    let body = json!({"webhook_url": receiver.url("/switch"), "subscribed_events": ["**"], "max_retries": 1});
    let id = app.webhook_with(&body).await["webhook_id"].clone();
    let webhook = async || app.webhook_request("GET", &id, "", None).await.body;
    let futile = app.webhook(&receiver.url("/ok"), &["notification.*", "order.*"]).await;
    let warning = futile["warning"].as_str().unwrap();
    assert!(warning.starts_with("no event can match order.*: "), "{warning}");
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

/// Runs on one store only. The receiver's certificate is signed by an authority that `SSL_CERT_FILE` names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_the_certificate_must_be_good() {
    let database = Database::new(Backend::Sqlite).await;
    let (tls, certificate) = tls_of(&["localhost"]);
    let authorities = database.folder.path().join("authorities.pem");
    std::fs::write(&authorities, certificate).unwrap();
    let receiver = Receiver::start_tls(tls).await;
    let url = |host: &str| format!("https://{host}:{}/ok", receiver.addr.port());
    let authorities = authorities.to_str().unwrap();
    // `localhost` may be the IPv6 loopback too, and all of a name's addresses must be allowed.
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

/// Looks at the query plans instead of times: no query reads over the deliveries of a dead endpoint.
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

async fn an_attempt_is_written_down_once_and_an_arrival_counts_whoever_holds_it(backend: Backend) {
    use oriva_hub::store::Lease;
    use oriva_hub_actors::{
        model::{OwnedWebhook, Timestamp, WebhookId},
        ports::{Attempt, Backoff, Delivery, Report, Verdict},
    };
    // Without hubs: two nodes as the store sees them.
    let (hub, app, _receiver) = start(backend).await;
    let made = app.webhook("https://hooks.example.com/", &["**"]).await;
    app.webhook_request("PATCH", &made["webhook_id"], "", Some(json!({"webhook_url": "http://127.0.0.1:1/"}))).await;
    let id = WebhookId(made["webhook_id"].as_str().unwrap().parse().unwrap());
    hub.hub.drain(std::time::Duration::ZERO);
    let store = hub.database.store().await;
    let published = oriva_hub_actors::testing::event("alice", 1, 1);
    let owe = oriva_hub::store::NewEvent {
        id: published.event().id,
        app_id: oriva_hub_actors::model::AppId::parse("work-buddy").unwrap(),
        from_platform: false,
        user_id: published.event().user_id.clone(),
        category: published.event().category,
        event_type: published.event().event_type.clone(),
        entity_type: "t".to_owned(),
        entity_id: "1".to_owned(),
        data: published.event().data.clone(),
        timestamp: Timestamp::now(),
    };
    let origin = oriva_hub::store::Origin { actor: "a".to_owned(), ip: None, user_agent: None, trace: None };
    let publish = oriva_hub::store::Publish { event: owe.clone() };
    let submission = oriva_hub::store::Submission::new(&owe.app_id, origin, publish);
    let owned = OwnedWebhook { app: owe.app_id.clone(), id };
    assert_eq!(store.append(&[submission]).await.unwrap()[0].enqueued_for, std::slice::from_ref(&owned));
    assert_eq!(store.webhooks_with_work(None, 1).await.unwrap(), std::slice::from_ref(&owned));
    assert_eq!(store.webhooks_with_work(Some(id), 1).await.unwrap(), []);
    let now = Timestamp::now;
    let (one, two) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
    let claim = async |owner, length| {
        let claimed = store.claim_deliveries(id, 8, Lease { owner, length }, now()).await.unwrap().unwrap();
        claimed.deliveries.into_iter().map(|(id, attempt, event)| Delivery { id, attempt, event }).next()
    };
    let judge = |delivery: &Delivery, verdict| {
        let report = Report {
            verdict,
            status_code: Some(200),
            response_time: std::time::Duration::ZERO,
            response_body: None,
            response_headers: None,
            error: None,
            payload: "{}".to_owned(),
        };
        let backoff = Backoff { first: std::time::Duration::from_secs(1), retries: 5 };
        Attempt::judge(delivery.clone(), report, backoff, 0.5)
    };
    let first = claim(one, std::time::Duration::ZERO).await.expect("it is due");
    assert!(claim(two, std::time::Duration::ZERO).await.is_none(), "it is the first one's");
    // The first one's lease runs out; the second takes over.
    assert_eq!(store.free_leases().await.unwrap(), [owned]);
    let second = claim(two, std::time::Duration::from_secs(60)).await.expect("it is due again");
    assert_eq!((first.id, first.attempt), (second.id, second.attempt));
    let late = judge(&first, Verdict::Failed { retry_after: None });
    for _ in 0..2 {
        let after = store.record_attempts(id, one, std::slice::from_ref(&late), 100, now()).await.unwrap().unwrap();
        assert_eq!(after.failures, 1, "once, however often it is written down");
    }
    assert!(claim(one, std::time::Duration::ZERO).await.is_none(), "a late failure takes it from nobody");
    let arrived = judge(&second, Verdict::Delivered);
    store.record_attempts(id, two, &[arrived], 100, now()).await.unwrap();
    assert_eq!(number(&hub, "select count(*) from webhook_deliveries where status = 'succeeded'").await, 1);
    assert_eq!(number(&hub, "select count(*) from webhook_delivery_log").await, 2);
    assert_eq!(number(&hub, "select total_deliveries from app_webhooks").await, 2);
}

async fn the_status_counts_whatever_becomes_of_the_body(backend: Backend) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (_hub, app, _receiver) = start_with(backend, |config| config.webhooks.timeout_seconds = 1).await;
    // Announces a body, sends a part of it, and then closes or stops sending.
    let answering = async |head: &'static str, closes: bool| {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 8192];
                    let _ = socket.read(&mut buffer).await;
                    let _ = socket.write_all(head.as_bytes()).await;
                    if !closes {
                        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
                    }
                });
            }
        });
        format!("http://{addr}/")
    };
    for closes in [true, false] {
        let url = answering("HTTP/1.1 410 Gone\r\nContent-Length: 10\r\n\r\nabc", closes).await;
        let gone = app.webhook(&url, &["**"]).await["webhook_id"].clone();
        app.publish("alice", "x").await;
        eventually("410 disables", async || {
            app.webhook_request("GET", &gone, "", None).await.body["is_active"] == false
        })
        .await;
        let url = answering("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc", closes).await;
        let well = app.webhook(&url, &["**"]).await["webhook_id"].clone();
        app.publish("alice", "y").await;
        eventually("200 is success", async || app.deliveries(&well, "?status=succeeded").await.len() == 1).await;
        assert_eq!(app.deliveries(&well, "").await[0]["attempts"][0]["response_body"], "abc");
        app.webhook_request("DELETE", &well, "", None).await;
    }
}
