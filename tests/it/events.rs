//! Publishing and querying events over HTTP (contract §2 to §4; seed rows T002, T003, T025, T026).

use serde_json::{Value, json};

use crate::{
    harness::{
        App, Backend, TestHub,
        callers::{read, send},
    },
    on_both_stores,
};

on_both_stores!(
    a_published_event_is_answered_and_found,
    an_event_is_checked_field_by_field,
    a_wrong_body_is_told_what_is_wrong_with_it,
    unknown_routes_and_methods_have_the_one_error_shape,
    credentials_are_checked_in_the_contracts_order,
    the_first_n_requests_pass_and_the_next_is_429,
    a_batch_costs_its_length,
    an_app_may_have_limits_of_its_own,
    a_batch_lands_its_good_events_together,
    an_idempotency_key_answers_again,
    an_idempotency_key_races_with_itself_and_one_event_is_written,
    queries_filter_and_page,
    apps_see_their_own_events_alone,
    answers_carry_ids_and_security_headers,
    an_address_that_is_not_escaped_right_is_refused,
    text_that_a_database_cannot_hold_is_refused_and_the_rest_kept,
);

async fn a_published_event_is_answered_and_found(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("work-buddy").await;
    let answer = app.post(&App::event("alice", "n-1")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["offset"], 1);
    let timestamp = answer.body["timestamp"].as_str().unwrap();
    assert!(timestamp.len() == 24 && timestamp.ends_with('Z'), "{timestamp}");

    let listing = app.events("").await;
    let event = &listing.body["events"][0];
    assert_eq!(event["event_id"], answer.body["event_id"]);
    assert_eq!(event["event_type"], "created", "bare in REST");
    assert_eq!(event["event_data"], json!({"n": 1}));
    assert_eq!((&event["user_id"], &event["app_id"]), (&json!("alice"), &json!("work-buddy")));
    let (total, limit, offset) = (&listing.body["total"], &listing.body["limit"], &listing.body["offset"]);
    assert_eq!((total, limit, offset), (&json!(1), &json!(100), &json!(0)));
    assert_eq!(listing.body["next_cursor"], Value::Null);
}

async fn an_event_is_checked_field_by_field(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let long = |n: usize| "x".repeat(n);
    let cases: Vec<(&str, Value, &str)> = vec![
        ("user_id", Value::Null, "user_id is required, unless audience is all"),
        ("user_id", json!(7), "string"),
        ("user_id", json!("a b"), "visible"),
        ("user_id", json!(long(129)), "128"),
        ("event_category", Value::Null, "required"),
        ("event_category", json!("party"), "one of notification, user, session, transaction"),
        ("event_type", Value::Null, "required"),
        ("event_type", json!("Created"), "lower-case"),
        ("event_type", json!(long(101)), "100"),
        ("entity_type", json!(""), "1 to 100"),
        ("entity_type", json!(long(101)), "1 to 100"),
        ("entity_id", json!(long(256)), "1 to 255"),
        ("event_data", json!([]), "object"),
        ("event_data", json!("x"), "object"),
        ("event_data", json!({"x": long(65_536)}), "65536"),
        ("audience", json!("some"), "all"),
        ("evnt_data", json!({}), "not a field"),
    ];
    for (field, value, part) in cases {
        let mut event = App::event("alice", "1");
        event[field] = value.clone();
        let answer = app.post(&event).await;
        assert_eq!((answer.status, answer.code()), (400, "validation_failed"), "{field}");
        assert_eq!(answer.fields(), [field], "{}", answer.body);
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains(part) && detail.starts_with(field), "{field}: {detail}");
        assert_eq!(answer.body["error"], answer.body["detail"]);
    }
    let answer = app.post(&json!({"user_id": "a", "event_category": 1, "entity_id": 2, "x": 3})).await;
    assert_eq!(answer.fields(), ["entity_id", "entity_type", "event_category", "event_type", "x"], "all at once");
    let mut both = App::event("alice", "1");
    both["audience"] = json!("all");
    assert_eq!(app.post(&both).await.fields(), ["user_id"]);

    // At the bounds it is accepted.
    let mut event = App::event(&long(128), long(255));
    event["event_type"] = json!("notification.created.late_2");
    event["entity_type"] = json!(long(100));
    let padding = 65_536 - json!({"x": ""}).to_string().len();
    event["event_data"] = json!({"x": long(padding)});
    assert_eq!(app.post(&event).await.status, 200);
    assert_eq!(app.events("").await.body["events"][0]["event_type"], "created.late_2");
}

async fn a_wrong_body_is_told_what_is_wrong_with_it(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| config.server.max_body_bytes = 100_000).await;
    let app = hub.app("a").await;
    let post = |content_type: &'static str, body: String| {
        let request = app.request("POST", "/events").header("content-type", content_type).body(body);
        async move {
            let answer = read(request).await;
            (answer.status, answer.code().to_owned())
        }
    };
    let good = App::event("alice", "1").to_string();
    assert_eq!(post("application/json; charset=utf-8", good.clone()).await, (200, String::new()));
    assert_eq!(post("text/plain", good.clone()).await, (415, "unsupported_media_type".to_owned()));
    for malformed in ["", "{", r#"{"a": 01}"#, "nul", "\u{feff}{}"] {
        assert_eq!(
            post("application/json", malformed.to_owned()).await,
            (400, "malformed_json".to_owned()),
            "{malformed}"
        );
    }
    let deep = format!(r#"{{"a": {}"#, "[".repeat(5000));
    assert_eq!(post("application/json", deep).await, (400, "malformed_json".to_owned()));
    for wrong in ["[]", "7", "null", "\"x\"", r#"{"a": 1e999}"#] {
        assert_eq!(post("application/json", wrong.to_owned()).await, (400, "validation_failed".to_owned()), "{wrong}");
    }
    let oversize = format!(r#"{{"x": "{}"}}"#, "x".repeat(100_001));
    assert_eq!(post("application/json", oversize).await, (413, "payload_too_large".to_owned()));
    let compressed = app
        .request("POST", "/events")
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body(good);
    let answer = read(compressed).await;
    assert_eq!((answer.status, answer.header("accept-encoding")), (415, "identity"));
}

async fn unknown_routes_and_methods_have_the_one_error_shape(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    for (method, path, status, code) in [
        ("GET", "/nope", 404, "not_found"),
        ("GET", "/api/v1/nope", 404, "not_found"),
        ("GET", "/api/v1/apps/Not-A-Slug/events", 404, "not_found"),
        ("PUT", "/api/v1/apps/a/events", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/api/v1/events/stream", 400, "validation_failed"),
    ] {
        let answer = send(hub.addr, method, path, Some(&app.key), &[], None).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{method} {path}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        for field in ["type", "title", "status", "detail", "error", "code", "details", "request_id"] {
            assert!(!answer.body[field].is_null(), "{method} {path} has {field}");
        }
        assert_eq!(answer.header("x-request-id"), answer.body["request_id"].as_str().unwrap());
    }
    for (path, hint) in [
        ("/api/v1/events/stream/", "/api/v1/events/stream, without a slash"),
        ("/socket.io/?EIO=4", "no Socket.IO server"),
    ] {
        let answer = send(hub.addr, "GET", path, Some(&app.key), &[], None).await;
        assert!(answer.status == 404 && answer.body["detail"].as_str().unwrap().contains(hint), "{}", answer.body);
    }
    // As clients of the original platform send their keys.
    let headers = [("x-api-key", &*app.key)];
    let answer = send(hub.addr, "GET", "/api/v1/apps/a/events?cursor=", None, &headers, None).await;
    assert_eq!((answer.status, &answer.body["has_more"]), (200, &json!(false)));
    let answer = send(hub.addr, "PUT", "/api/v1/apps/a/events", None, &[], None).await;
    assert_eq!(answer.header("allow"), "GET, POST, HEAD");
    let asked = send(hub.addr, "HEAD", "/api/v1/apps/a/events", Some(&app.key), &[], None).await;
    assert_eq!((asked.status, asked.header("content-type")), (200, "application/json"));
}

async fn credentials_are_checked_in_the_contracts_order(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other) = (hub.app("a").await, hub.app("b").await);
    let token = app.token("alice").await;
    let bad_body = Some(json!({}));
    for (credential, path, status, code) in [
        (None, "/api/v1/apps/a/events", 401, "unauthenticated"),
        (Some("nonsense"), "/api/v1/apps/a/events", 401, "unauthenticated"),
        (Some("ohk_0000000000000000000000000000000000000000000"), "/api/v1/apps/a/events", 401, "unauthenticated"),
        (Some("nonsense"), "/api/v1/apps/none/events", 401, "unauthenticated"),
        (Some(&*app.key), "/api/v1/apps/none/events", 404, "not_found"),
        (Some(&*token), "/api/v1/apps/none/events", 404, "not_found"),
        (Some(&*other.key), "/api/v1/apps/a/events", 403, "forbidden"),
        (Some(&*token), "/api/v1/apps/a/events", 403, "forbidden"),
        (Some(crate::harness::hub::ADMIN_KEY), "/api/v1/apps/a/events", 403, "forbidden"),
        (Some(&*app.key), "/api/v1/apps/a/events", 400, "validation_failed"),
    ] {
        let answer = send(hub.addr, "POST", path, credential, &[], bad_body.clone()).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{path}");
        assert_eq!(answer.header("www-authenticate").is_empty(), status != 401);
    }
    for (credential, path, part) in [
        (&*token, "/api/v1/apps/a/events", "wants an app's API key"),
        (&*other.key, "/api/v1/apps/a/events", "does not open that app"),
        (&*token, "/api/v1/users/bob/presence", "only that user's own notifications and presence"),
        (&*app.key, "/api/v1/users/a%20b/presence", "user_id must be"),
        (&*app.key, "/api/v1/nothing", "no route at this address"),
    ] {
        let answer = send(hub.addr, "GET", path, Some(credential), &[], None).await;
        assert!(answer.body["detail"].as_str().unwrap().contains(part), "{path}: {}", answer.body);
    }
    let expired = app.token_for("alice", 1).await;
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let answer = send(hub.addr, "GET", "/api/v1/apps/a/events", Some(&expired), &[], None).await;
    assert_eq!((answer.status, answer.code()), (401, "token_expired"));
}

async fn the_first_n_requests_pass_and_the_next_is_429(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| {
        config.rate_limits.enabled = true;
        config.rate_limits.publish.limit = 3;
    })
    .await;
    let (app, other) = (hub.app("a").await, hub.app("b").await);
    for left in [2, 1] {
        let answer = app.post(&App::event("alice", "1")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-ratelimit-limit"), "3");
        assert_eq!(answer.header("x-ratelimit-remaining"), left.to_string());
        assert_eq!(answer.header("ratelimit-policy"), r#""publish";q=3;w=900"#);
        assert!(answer.header("ratelimit").starts_with(&format!(r#""publish";r={left};t="#)));
        let reset: i64 = answer.header("x-ratelimit-reset").parse().unwrap();
        let ahead = reset - chrono::Utc::now().timestamp();
        assert!((1..=900).contains(&ahead), "{ahead}");
    }
    let faulty = app.post(&json!({})).await;
    assert_eq!((faulty.status, faulty.header("x-ratelimit-remaining")), (400, "0"), "a faulty request costs too");
    let refused = app.post(&json!({})).await;
    assert_eq!((refused.status, refused.code()), (429, "rate_limited"), "429 comes before 400");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(refused.header("x-ratelimit-remaining"), "0");
    assert_eq!(app.events("").await.status, 200, "another class");
    assert_eq!(other.post(&App::event("alice", "1")).await.status, 200, "another app");
}

async fn a_batch_costs_its_length(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| {
        config.rate_limits.enabled = true;
        config.rate_limits.publish.limit = 5;
    })
    .await;
    let app = hub.app("a").await;
    let batch = |n: usize| {
        let events: Vec<_> = (0..n).map(|n| App::event("alice", n)).collect();
        read(app.request("POST", "/events/batch").json(&json!({"events": events})))
    };
    let answer = batch(3).await;
    assert_eq!((answer.status, answer.header("x-ratelimit-remaining")), (200, "2"));
    let answer = batch(3).await;
    assert_eq!((answer.status, answer.code()), (429, "rate_limited"));
    assert_eq!(app.events("").await.body["total"], 3, "nothing of it was written");
    let answer = batch(6).await;
    assert_eq!((answer.status, answer.code()), (413, "payload_too_large"), "it could never pass: {}", answer.body);
}

async fn an_app_may_have_limits_of_its_own(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| config.rate_limits.enabled = true).await;
    let app = hub.app("a").await;
    let answer = hub.admin("PATCH", "/api/v1/admin/apps/a", Some(json!({"limits": {"publish": 1}}))).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(app.post(&App::event("alice", "1")).await.status, 200);
    assert_eq!(app.post(&App::event("alice", "1")).await.status, 429);
}

async fn a_batch_lands_its_good_events_together(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let post = |body: Value| read(app.request("POST", "/events/batch").json(&body));
    let mut bad = App::event("alice", "2");
    bad["event_category"] = json!("party");
    let answer = post(json!({"events": [App::event("alice", "1"), bad, 7, App::event("bob", "3")]})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let items = answer.body["events"].as_array().unwrap();
    assert_eq!(items.len(), 4);
    assert_eq!((&items[0]["offset"], &items[3]["offset"]), (&json!(1), &json!(2)));
    assert_eq!(items[1]["code"], "validation_failed");
    assert_eq!(items[1]["details"][0]["field"], "event_category");
    assert_eq!(items[2]["code"], "validation_failed");
    for wrong in [json!({}), json!({"events": []}), json!({"events": {}}), json!({"events": [1], "x": 2})] {
        assert_eq!(post(wrong.clone()).await.status, 400, "{wrong}");
    }
    let thousand: Vec<_> = (0..1000).map(|n| App::event("carol", n)).collect();
    let answer = post(json!({"events": thousand})).await;
    assert_eq!(answer.body["events"][999]["offset"], 1002);
    let too_many: Vec<_> = (0..1001).map(|n| App::event("carol", n)).collect();
    assert_eq!(post(json!({"events": too_many})).await.status, 400);
    let only_bad = post(json!({"events": [7]})).await;
    assert_eq!((only_bad.status, only_bad.body["events"][0]["code"].as_str()), (200, Some("validation_failed")));
}

async fn an_idempotency_key_answers_again(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other) = (hub.app("a").await, hub.app("b").await);
    let event = App::event("alice", "1");
    let first = app.post_with_key(&event, "k-1").await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, ""));
    let again = app.post_with_key(&event, "k-1").await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, "true"));
    assert_eq!(again.body, first.body);
    assert_eq!(app.post_with_key(&event, "\"k-1\"").await.body, first.body, "the draft's quoted form");
    let mismatch = app.post_with_key(&App::event("alice", "2"), "k-1").await;
    assert_eq!((mismatch.status, mismatch.code()), (422, "idempotency_mismatch"));
    assert_eq!(other.post_with_key(&event, "k-1").await.header("idempotency-replayed"), "", "per app");
    assert_eq!(app.post_with_key(&event, &"k".repeat(256)).await.fields(), ["Idempotency-Key"]);
    let twice = app.request("POST", "/events").header("Idempotency-Key", "k-3").header("Idempotency-Key", "k-4");
    assert_eq!(read(twice.json(&event)).await.fields(), ["Idempotency-Key"]);
    assert_eq!(app.events("").await.body["total"], 1);

    let batch = json!({"events": [event, 7]});
    let post = || read(app.request("POST", "/events/batch").header("Idempotency-Key", "k-2").json(&batch));
    let (first, again) = (post().await, post().await);
    assert_eq!((again.header("idempotency-replayed"), &again.body), ("true", &first.body));
}

async fn an_idempotency_key_races_with_itself_and_one_event_is_written(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    for round in 0..5 {
        let event = App::event("alice", round);
        let key = format!("race-{round}");
        let answers = futures_util::future::join_all((0..16).map(|_| app.post_with_key(&event, &key))).await;
        let mut written = 0;
        for answer in &answers {
            match (answer.status, answer.header("idempotency-replayed")) {
                (200, "") => written += 1,
                (200, "true") => {}
                (409, _) => assert_eq!(answer.code(), "conflict"),
                other => panic!("{other:?} {}", answer.body),
            }
        }
        assert_eq!(written, 1, "round {round}");
    }
    assert_eq!(app.events("").await.body["total"], 5);
}

async fn queries_filter_and_page(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    for n in 0..7 {
        app.publish(if n % 2 == 0 { "alice" } else { "bob" }, n).await;
    }
    assert_eq!(app.events("?user_id=bob").await.body["total"], 3);
    assert_eq!(app.events("?entity_id=4").await.body["total"], 1);
    assert_eq!(app.events("?event_category=notification&event_type=notification.created").await.body["total"], 7);
    assert_eq!(app.events("?event_category=user").await.body["total"], 0);
    assert_eq!(app.events("?start_date=2999-01-01T00:00:00Z").await.body["total"], 0);
    assert_eq!(app.events("?end_date=2999-01-01T00:00:00Z").await.body["total"], 7);
    assert_eq!(app.events("?limit=2&offset=1").await.body["events"][0]["offset"], 6);

    // Pages by cursor stay exact while events arrive.
    let (mut seen, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let page = app.events(&query).await.body;
        seen.extend(page["events"].as_array().unwrap().iter().map(|event| event["offset"].as_u64().unwrap()));
        app.publish("alice", "late").await;
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, [7, 6, 5, 4, 3, 2, 1]);
    for (query, field) in [
        ("?limit=0", "limit"),
        ("?limit=501", "limit"),
        ("?limit=x", "limit"),
        ("?offset=-1", "offset"),
        ("?cursor=x", "cursor"),
        ("?event_category=party", "event_category"),
        ("?start_date=yesterday", "start_date"),
        ("?entity=1", "entity"),
        ("?limit=1&limit=2", "limit"),
    ] {
        let answer = app.events(query).await;
        assert_eq!((answer.status, answer.fields()), (400, vec![field]), "{query}");
    }
}

async fn apps_see_their_own_events_alone(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other, platform) = (hub.app("a").await, hub.app("b").await, hub.platform_app("core").await);
    app.publish("alice", "secret").await;
    assert_eq!(other.events("").await.body["total"], 0);
    assert_eq!(other.events("?entity_id=secret&user_id=alice").await.body["total"], 0);
    let foreign = App::new(hub.addr, "a", &platform.key);
    assert_eq!(foreign.events("").await.status, 403, "a platform app acts for itself too");
    assert_eq!(foreign.post(&App::event("alice", "1")).await.status, 403);
}

async fn answers_carry_ids_and_security_headers(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| {
        config.server.cors.allowed_origins = vec!["https://app.example.org".to_owned()];
    })
    .await;
    let app = hub.app("a").await;
    let answer =
        send(hub.addr, "GET", "/api/v1/apps/a/events", Some(&app.key), &[("x-request-id", "my-id.1")], None).await;
    assert_eq!(answer.header("x-request-id"), "my-id.1");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("cache-control"), "no-store");
    let answer = send(hub.addr, "GET", "/healthz", None, &[("x-request-id", "bad id")], None).await;
    assert_eq!(answer.header("x-request-id").len(), 36, "an id that a log cannot hold is replaced");
    let preflight = |origin: &'static str| {
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        async move { send(hub.addr, "OPTIONS", "/api/v1/apps/a/events", None, &headers, None).await }
    };
    let allowed = preflight("https://app.example.org").await;
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example.org");
    let refused = preflight("https://evil.example").await;
    assert_eq!(refused.header("access-control-allow-origin"), "");
    assert_eq!((refused.status, refused.code()), (403, "forbidden"), "{}", refused.body);
    // A browser learns that the hub is stopping, too.
    hub.hub.refuse_work();
    assert_eq!(preflight("https://app.example.org").await.status, 200);
    let headers = [("origin", "https://app.example.org")];
    let answer = send(hub.addr, "GET", "/api/v1/apps/a/events", Some(&app.key), &headers, None).await;
    assert_eq!((answer.status, answer.code()), (503, "overloaded"));
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example.org");
}

/// A client that does not escape is told so: the hub would read something else than it wrote.
async fn an_address_that_is_not_escaped_right_is_refused(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let alice = app.inbox("alice");
    for path in ["/users/%zz/notifications", "/users/a%/notifications"] {
        assert_eq!(alice.ask("GET", path, None).await.status, 404, "{path}: nobody has this id");
    }
    let answer = alice.ask("GET", "/users/alice/notifications?app_id=%2", None).await;
    assert_eq!((answer.status, answer.fields()), (400, vec!["query"]));
    let answer = send(hub.addr, "GET", "/api/v1/apps/a/events?user_id=%zz", None, &[], None).await;
    assert_eq!(answer.status, 401, "who is not known learns nothing");
    let path = "/users/alice/notifications?since=2026-01-01T00:00:00+01:00";
    let answer = alice.ask("GET", path, None).await;
    assert_eq!(answer.fields(), ["since"]);
    assert!(answer.body["detail"].as_str().unwrap().contains("%2B"), "{}", answer.body);
    assert_eq!(alice.feed("?since=2026-01-01T00:00:00%2B01:00").await.status, 200);
}

async fn text_that_a_database_cannot_hold_is_refused_and_the_rest_kept(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    for (field, value) in
        [("entity_id", json!("a\u{0}b")), ("event_data", json!({"a": ["\u{0}"]})), ("event_data", json!({"\u{0}": 1}))]
    {
        let mut event = App::event("alice", "1");
        event[field] = value;
        assert_eq!(app.post(&event).await.fields(), [field]);
    }
    let mut event = App::event("alice", "😀 ' \" \\ \u{202e}");
    event["event_data"] =
        json!({"big": 1.5e300, "int": u64::MAX, "neg": i64::MIN, "text": "\u{1}\u{7f}💥", "deep": [[[[]]]]});
    assert_eq!(app.post(&event).await.status, 200);
    let stored = &app.events("").await.body["events"][0];
    assert_eq!(stored["event_data"]["text"], event["event_data"]["text"]);
    assert_eq!(stored["event_data"]["int"], event["event_data"]["int"]);
    assert_eq!(stored["entity_id"], event["entity_id"]);
}
