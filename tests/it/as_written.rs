//! What a client wrote in `event_data`, `context_data` and `metadata` comes back as the same text, wherever it is shown
//! (contract §4).

use futures_util::StreamExt as _;
use oriva_hub::store::{
    ArchiveTable, EventReader as _, PageRequest, Range, RetentionClass, Store as _, postgres::PostgresStore,
};
use oriva_hub_actors::{
    model::{StreamKey, Timestamp, UserId, entries},
    ports::PageLimit,
};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};
use sqlx_pg::{Connection as _, Executor as _, PgConnection};

use crate::{
    harness::{App, Backend, Database, Receiver, Socket, TestHub, callers::read, eventually},
    on_both_stores,
    webhooks::start,
};

on_both_stores!(
    event_data_is_the_same_text_everywhere,
    context_data_and_metadata_are_the_same_text_everywhere,
    an_archive_has_the_same_text,
    what_cannot_be_passed_on_is_refused_by_name,
    the_largest_frame_and_body_are_as_long_as_the_documents_say,
);

/// JSON objects as text: numbers beyond every machine type, any escape, any order, keys that are there twice.
fn objects(count: usize) -> Vec<String> {
    let blank = || prop_oneof![6 => Just(""), 1 => Just(" "), 1 => Just("\n\t"), 1 => Just("\r\n")];
    let number = r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?";
    let piece = prop_oneof![
        8 => r"[a-z<>&/ é中]{1,3}",
        1 => Just("\u{1f600}".to_owned()),
        1 => r"\\[bfnrt/u]".prop_map(|escape| if escape == r"\u" { r"\u00Ef".to_owned() } else { escape }),
        1 => Just(r#"\"\\"#.to_owned()),
        1 => Just(r"\ud83d\uDE00\u2028".to_owned()),
    ];
    let string = proptest::collection::vec(piece, 0..5).prop_map(|pieces| format!("\"{}\"", pieces.concat()));
    let leaf = prop_oneof![
        4 => number.prop_map(String::from),
        3 => string.clone(),
        1 => prop_oneof![Just("true"), Just("false"), Just("null")].prop_map(str::to_owned),
    ];
    let value = leaf.prop_recursive(8, 40, 5, move |inner| {
        let items = proptest::collection::vec((blank(), inner.clone(), blank()), 0..5);
        let array = items.prop_map(|items| {
            let items: Vec<String> = items.into_iter().map(|(a, item, b)| format!("{a}{item}{b}")).collect();
            format!("[{}]", items.join(","))
        });
        let entries = proptest::collection::vec((blank(), string.clone(), blank(), inner), 0..5);
        let object = entries.prop_map(|entries| {
            let entries: Vec<String> =
                entries.into_iter().map(|(a, key, b, value)| format!("{a}{key}{b}:{b}{value}{a}")).collect();
            format!("{{{}}}", entries.join(","))
        });
        prop_oneof![array, object]
    });
    let mut runner = TestRunner::new(Config::default());
    let mut object = |n| {
        let value = value.new_tree(&mut runner).unwrap().current();
        format!("{{\"of\":{value},\"z\":{n},\"a\":1.7976931348623157e308,\"\\u0061\":117.63331139400017}}")
    };
    (0..count).map(&mut object).collect()
}

async fn post(app: &App, path: &str, body: String) -> Value {
    let request = app.request("POST", path).header("content-type", "application/json").body(body);
    let answer = read(request).await;
    assert!(answer.status < 300, "{}", answer.body);
    answer.body
}

/// The text of the next frames.
async fn frames(socket: &mut Socket, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        let message = socket.inner.next().await.unwrap().unwrap();
        if let Ok(text) = message.to_text()
            && text.starts_with(r#"{"type":"event""#)
        {
            texts.push(text.to_owned());
        }
    }
    texts
}

/// Each of `objects` stands under `name` in one of `texts`.
fn assert_each(texts: &[String], name: &str, objects: &[String]) {
    for object in objects {
        let expected = format!("\"{name}\":{object}");
        assert!(texts.iter().any(|text| text.contains(&expected)), "{expected}\nis not in\n{texts:#?}");
    }
}

async fn bodies(receiver: &Receiver, count: usize) -> Vec<String> {
    let received = receiver.wait_for("/ok", count).await;
    received.into_iter().map(|one| String::from_utf8(one.raw).unwrap()).collect()
}

async fn event_data_is_the_same_text_everywhere(backend: Backend) {
    const COUNT: usize = 60;
    let (_hub, app, receiver) = start(backend).await;
    let webhook = app.webhook(&receiver.url("/ok"), &["**"]).await;
    let mut socket = app.connect("alice").await;
    socket.subscribe(&["**"]).await;
    let objects = objects(COUNT);
    let event = |n: usize| {
        let event = App::event("alice", n).to_string();
        event.replace(r#""event_data":{"n":1}"#, &format!(r#""event_data" : {}"#, objects[n]))
    };
    post(&app, "/events", event(0)).await;
    let rest: Vec<String> = (1..COUNT).map(event).collect();
    let batch = post(&app, "/events/batch", format!(r#"{{"events":[{}]}}"#, rest.join(","))).await;
    assert!(batch["events"].as_array().unwrap().iter().all(|one| one["event_id"].is_string()), "{batch:#}");

    let live = frames(&mut socket, COUNT).await;
    assert_each(&live, "event_data", &objects);
    let listing = app.request("GET", "/events?limit=500").send().await.unwrap().text().await.unwrap();
    assert_each(&[listing], "event_data", &objects);
    let sent = bodies(&receiver, COUNT).await;
    assert_each(&sent, "event_data", &objects);
    let values: Vec<String> = objects.iter().map(|text| text.split(",\"z\"").next().unwrap()[1..].to_owned()).collect();
    for value in &values {
        assert!(sent.iter().any(|body| body.contains(&format!("\"data\":{{{value}"))), "{value}");
    }
    assert_eq!(app.deliveries(&webhook["webhook_id"], "?status=failed").await.len(), 0);

    let mut socket = app.connect("alice").await;
    socket.send(json!({"action": "subscribe", "event_types": ["**"], "after": 0})).await;
    assert_eq!(frames(&mut socket, COUNT).await, live, "replayed the same bytes as live");
}

async fn context_data_and_metadata_are_the_same_text_everywhere(backend: Backend) {
    const COUNT: usize = 20;
    let (_hub, app, receiver) = start(backend).await;
    app.webhook(&receiver.url("/ok"), &["**"]).await;
    let mut socket = app.connect("alice").await;
    socket.subscribe(&["**"]).await;
    let objects = objects(2 * COUNT);
    let (contexts, metadata) = objects.split_at(COUNT);
    let alice = app.user("alice").await;
    for (context, metadata) in contexts.iter().zip(metadata) {
        let body = App::notification("alice", "x").to_string();
        let body = body.replacen('{', &format!("{{\"context_data\":{context},"), 1);
        let made = post(&app, "/notifications", body).await;
        let id = made["notification_id"].as_str().unwrap();
        let url = format!("http://{}/api/v1/notifications/{id}", app.addr);
        let patch = app.client().patch(url).bearer_auth(&alice.credential).header("content-type", "application/json");
        let patched = read(patch.body(format!(r#"{{"status":"read","metadata":{metadata}}}"#))).await;
        assert_eq!(patched.status, 200, "{}", patched.body);
    }
    let live = frames(&mut socket, 2 * COUNT).await;
    let sent = bodies(&receiver, 2 * COUNT).await;
    let url = format!("http://{}/api/v1/users/alice/notifications?limit=100", app.addr);
    let feed = app.client().get(url).bearer_auth(&alice.credential).send().await.unwrap().text().await.unwrap();
    for texts in [&live, &sent, &vec![feed]] {
        assert_each(texts, "context_data", contexts);
    }
    for object in metadata {
        // The value of its first key, with its blanks, and the keys after it as they were written.
        let entries = object.trim_end_matches('}');
        for texts in [&live, &sent] {
            assert!(texts.iter().any(|text| text.contains(entries)), "{entries}\nis not in\n{texts:#?}");
        }
    }
}

async fn an_archive_has_the_same_text(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let objects = objects(40);
    for object in &objects {
        let event = App::event("alice", 1).to_string().replace(r#"{"n":1}"#, object);
        post(&app, "/events", event).await;
    }
    let store = hub.database.store().await;
    let later = Timestamp::from(Timestamp::now().as_datetime() + std::time::Duration::from_secs(3600));
    let step = store.retire(RetentionClass::Events, Range::until(later), 100).await.unwrap();
    assert_eq!(step.done, 40);
    let export = store.begin_export(ArchiveTable::Events, 100).await.unwrap().unwrap();
    let lines: Vec<String> = export.lines.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), objects.len(), "one line for each row");
    // Breaks between tokens are the one thing that newline-delimited JSON cannot keep.
    let objects: Vec<String> = objects.iter().map(|object| object.replace(['\r', '\n'], "")).collect();
    assert_each(&lines, "event_data", &objects);
    for line in lines {
        let row = entries(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"));
        let value = |name| row.iter().find(|entry| entry.name == name).map(|entry| entry.value.get());
        assert_eq!((value("app_id"), value("broadcast_offset")), (Some(r#""a""#), Some("null")));
    }
}

async fn what_cannot_be_passed_on_is_refused_by_name(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    for (data, expected) in [
        (r#"{"a":"\u0000"}"#, "U+0000"),
        (r#"{"a":"\ud800"}"#, "surrogate"),
        (&deep, "127 levels"),
        (&format!("{{\"a\":\"{}\"}}", "x".repeat(64 * 1024)), "65536 bytes"),
        ("[1]", "object"),
        ("1e400", "object"),
    ] {
        let body = App::event("alice", 1).to_string().replace(r#"{"n":1}"#, data);
        let request = app.request("POST", "/events").header("content-type", "application/json");
        let answer = read(request.body(body)).await;
        let fault = &answer.body["details"][0];
        assert_eq!((answer.status, &fault["field"]), (400, &json!("event_data")), "{}", answer.body);
        assert!(fault["message"].as_str().unwrap().contains(expected), "{fault}");
    }
    let twice = r#"{"user_id":"alice","title":"A","title":"B","body":"b"}"#.to_owned();
    let request = app.request("POST", "/notifications").header("content-type", "application/json");
    let answer = read(request.body(twice)).await;
    assert_eq!((answer.status, &answer.body["details"][0]["field"]), (400, &json!("title")), "{}", answer.body);
    assert!(app.events("").await.body["events"].as_array().unwrap().is_empty());
}

/// A store whose `event_data` was `jsonb` is migrated, and keeps what it has.
#[tokio::test]
async fn a_store_of_before_is_migrated() {
    let database = Database::new(Backend::Postgres).await;
    let name = format!("t_{}", uuid::Uuid::now_v7().simple());
    let mut owner = PgConnection::connect(&database.owner_url).await.unwrap();
    owner.execute(format!("create database {name}").as_str()).await.unwrap();
    let url = format!("{}/{name}", database.owner_url.rsplit_once('/').unwrap().0);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
    let all = sqlx_pg::migrate::Migrator::new(folder).await.unwrap();
    let before = all.iter().filter(|migration| migration.version < 10).cloned().collect();
    let mut owner = PgConnection::connect(&url).await.unwrap();
    let before = sqlx_pg::migrate::Migrator { migrations: before, ..sqlx_pg::migrate::Migrator::DEFAULT };
    before.run_direct(&mut owner).await.unwrap();
    // As that version noted it.
    let first = "8d67b3486e5b6332eea257448a1244e104182ea3f9b6e22d1ffd71397c71464a9b5603ccf05d4d30201775275bba4c44";
    let note = format!("update _sqlx_migrations set checksum = decode('{first}', 'hex') where version = 1");
    owner.execute(note.as_str()).await.unwrap();
    owner
        .execute(
            r#"insert into apps (app_id, name) values ('a', 'A');
               insert into streams values ('app', 'a', 1), ('user', 'alice', 1);
               insert into platform_events (id, app_id, user_id, event_category, event_type, entity_type, entity_id,
                   event_data, from_platform, app_offset, user_offset, timestamp, created_at)
               values ('019ab000-0000-7000-8000-000000000001', 'a', 'alice', 'user', 'x', 't', 'e',
                   '{"b": 1e20, "a": [1.50, "é"]}', false, 1, 1, now(), now());"#,
        )
        .await
        .unwrap();
    let store = PostgresStore::new(&url, 2).unwrap();
    assert_eq!(store.migrate().await.unwrap()[0], "json as written");
    store.close().await;
    owner.execute("grant oriva_hub_service, oriva_hub_tenant to hub").await.unwrap();
    let store = PostgresStore::new(&url.replacen("://owner@", "://hub@", 1), 2).unwrap();
    let stream = StreamKey::User(UserId::parse("alice").unwrap());
    let limit = PageLimit { events: 10, bytes: 1000 };
    let pages = store.pages(&[PageRequest { stream, after: 0 }], limit).await.unwrap();
    assert_eq!(pages[0].events[0].event().data.as_str(), r#"{"a": [1.50, "é"], "b": 100000000000000000000}"#);
    store.close().await;
    eventually("nobody holds the database", async || {
        let drop = format!("drop database {name} with (force)");
        PgConnection::connect(&database.owner_url).await.unwrap().execute(drop.as_str()).await.is_ok()
    })
    .await;
}

/// The longest notification that there can be, with characters that JSON writes as two.
async fn the_largest_frame_and_body_are_as_long_as_the_documents_say(backend: Backend) {
    let document: Value = serde_json::from_str(include_str!("../../docs/asyncapi.json")).unwrap();
    let longest = document["channels"]["stream"]["x-max-frame-bytes"].as_u64().unwrap();
    let (hub, app, receiver) = start(backend).await;
    let mut socket = app.connect("alice").await;
    socket.subscribe(&["**"]).await;
    app.webhook(&receiver.url("/ok"), &["**"]).await;
    let url = format!("https://example.org/{}", "x".repeat(2028));
    let data: String = "\u{1F600}".repeat(16_380);
    let notification = json!({
        "user_id": "alice", "title": "\u{1F600}".repeat(200), "body": "\"".repeat(1000), "action_label": "\"".repeat(50),
        "notification_type": "\"".repeat(100), "external_id": "\"".repeat(255),
        "action_url": url, "image_url": url, "icon_url": url, "context_data": {"a": data},
    });
    app.notify(&notification).await;
    let frame = socket.frame().await.to_string().len() as u64;
    let body = receiver.wait_for("/ok", 1).await[0].raw.len() as u64;
    assert!((64 * 1024..=longest).contains(&frame), "{frame}");
    assert!((2 * 64 * 1024..=160 * 1024).contains(&body), "{body}");
    drop(hub);
}
