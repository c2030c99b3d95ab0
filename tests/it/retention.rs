//! Rows past retention are archived, exported and deleted (data-model, 'Retention'; seed row T043).

use std::{collections::HashSet, io::Read as _, path::Path, process::Stdio};

use oriva_hub::{
    archive::ObjectArchive,
    config::Retention,
    store::{ArchiveTable, RetentionClass},
    workers::Archiver,
};
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
    the_audit_log_leaves_after_its_own_time,
    the_command_says_what_is_due_and_does_it,
    however_many_are_not_over_all_of_them_end,
    the_command_ends_what_has_to_end_first,
    what_is_cold_leaves_for_a_directory_once,
    what_is_cold_leaves_for_a_bucket,
    a_place_that_cannot_be_written_loses_nothing,
);

/// Everything is past it.
const ALL: Retention = Retention { days: 0, delivery_log_days: 0, audit_days: 365, batch: 10_000, archive_url: None };

async fn archiver(hub: &TestHub, config: &Retention) -> Archiver {
    Archiver::new(hub.database.store().await, config, hub.hub.next_expiry())
}

fn count(done: &[(RetentionClass, u64)], what: RetentionClass) -> u64 {
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
    assert_eq!(count(&kept.run().await.unwrap().retired, RetentionClass::Events), 0, "young ones stay");

    // Two nodes at the same moment.
    let (one, two) = (archiver(&hub, &ALL).await, archiver(&hub, &ALL).await);
    assert_eq!(count(&one.due().await.unwrap(), RetentionClass::Events), 2501);
    let (first, second) = tokio::join!(one.run(), two.run());
    let moved = count(&first.unwrap().retired, RetentionClass::Events)
        + count(&second.unwrap().retired, RetentionClass::Events);
    let rest = count(&one.run().await.unwrap().retired, RetentionClass::Events);
    assert_eq!(moved + rest, 2501);
    assert_eq!(number(&hub, "select count(*) from platform_events").await, 0);
    let sum = "select count(*) from platform_events_archive where entity_id <> '' and app_offset between 1 and 2501";
    assert_eq!(number(&hub, sum).await, 2501);
    assert_eq!(number(&hub, "select count(distinct app_offset) from platform_events_archive").await, 2501);

    // A client that resumes from before gets `recovered: false`, and offsets continue.
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
    // The expired one, and the other if the expiry worker was faster.
    let mut archived = count(&archiver.run().await.unwrap().retired, RetentionClass::Notifications);
    let frame = socket.frame().await;
    assert_eq!((&frame["event_type"], &frame["entity_id"]), (&json!("notification.expired"), &json!(unread)));
    archived += count(&archiver.run().await.unwrap().retired, RetentionClass::Notifications);
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
    assert_eq!(count(&archiver(&hub, &log_only).await.run().await.unwrap().retired, RetentionClass::DeliveryLog), 1);
    assert_eq!(number(&hub, "select count(*) from webhook_deliveries").await, 1);
    let done = archiver(&hub, &ALL).await.run().await.unwrap().retired;
    assert_eq!((count(&done, RetentionClass::Deliveries), count(&done, RetentionClass::Events)), (1, 1));
}

async fn the_audit_log_leaves_after_its_own_time(backend: Backend) {
    const YOUNG: Retention = Retention { days: 90, ..ALL };
    let hub = TestHub::start(backend).await;
    let app = hub.app("work-buddy").await;
    let shown = app.notify(&App::notification("alice", "Lunch?")).await;
    let log = async |subject: &str| {
        let answer = hub.admin("GET", &format!("/api/v1/admin/audit?subject={subject}"), None).await;
        answer.body["entries"].as_array().unwrap().clone()
    };
    let entry = log(&shown).await.remove(0);
    let rows = u64::try_from(number(&hub, "select count(*) from audit_log").await).unwrap();
    assert_eq!(
        count(&archiver(&hub, &YOUNG).await.run().await.unwrap().retired, RetentionClass::AuditLog),
        0,
        "a year"
    );

    let old = archiver(&hub, &Retention { audit_days: 0, ..YOUNG }).await;
    assert_eq!(count(&old.due().await.unwrap(), RetentionClass::AuditLog), rows);
    assert_eq!(count(&old.run().await.unwrap().retired, RetentionClass::AuditLog), rows);
    assert_eq!(log(&shown).await, [] as [Value; 0]);
    assert_eq!(number(&hub, "select count(*) from audit_log_archive").await.unsigned_abs(), rows);

    let folder = tempfile::TempDir::new().unwrap();
    let archive_url = Some(format!("file://{}", folder.path().display()));
    archiver(&hub, &Retention { archive_url, ..YOUNG }).await.run().await.unwrap();
    let kept = lines(&folder.path().join("audit_log"));
    assert_eq!(kept.len() as u64, rows);
    let line = kept.iter().find(|line| line["subject"] == shown.as_str()).unwrap();
    for column in ["actor", "action", "app_id", "ip_address", "at"] {
        assert_eq!(line[column], entry[column], "{column}");
    }
    assert_eq!(number(&hub, "select count(*) from audit_log_archive").await, 0);
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
    let none = json!({"events": 0, "notifications": 0, "deliveries": 0, "delivery_log": 0, "audit_log": 0});
    assert_eq!(run(&["archive", "--dry-run", "--json"]), none, "it is young");
    assert_eq!(run(&["archive", "--json"]), none);
}

async fn however_many_are_not_over_all_of_them_end(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("work-buddy").await;
    for title in 0..7 {
        app.notify(&App::notification("alice", title)).await;
    }
    let mut later = App::notification("alice", "until next year");
    later["expires_at"] = json!("2126-01-01T00:00:00Z");
    let later = app.notify(&later).await;

    let config = Retention { batch: 2, ..ALL };
    assert_eq!(count(&archiver(&hub, &config).await.due().await.unwrap(), RetentionClass::Notifications), 7);
    let first = archiver(&hub, &config).await.run().await.unwrap();
    assert_eq!(first.expired, 7);
    let inbox = app.user("alice").await;
    eventually("they end", async || inbox.unread().await == 1).await;
    let second = archiver(&hub, &config).await.run().await.unwrap();
    assert_eq!(second.expired, 0);
    // The expiry worker may be faster than the first pass.
    assert_eq!([first, second].map(|pass| count(&pass.retired, RetentionClass::Notifications)).iter().sum::<u64>(), 7);
    // A notification with its own `expires_at` is kept until then.
    let kept = inbox.get(&later).await;
    assert_eq!(
        (&kept.body["status"], &kept.body["expires_at"]),
        (&json!("unread"), &json!("2126-01-01T00:00:00.000Z"))
    );
}

/// A hub is running, and its own worker runs again in five minutes.
async fn the_command_ends_what_has_to_end_first(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("work-buddy").await;
    for title in 0..3 {
        app.notify(&App::notification("alice", title)).await;
    }
    let archiver = Archiver::new(hub.database.store().await, &ALL, Default::default());
    assert_eq!(count(&archiver.run_until_empty().await.unwrap().retired, RetentionClass::Notifications), 3);
    assert_eq!(app.user("alice").await.unread().await, 0);
    let expired = "select count(*) from platform_events_archive where event_type = 'expired'";
    assert_eq!(number(&hub, expired).await, 3);
}

/// All lines of the objects below a folder.
fn lines(folder: &Path) -> Vec<Value> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(lines(&path));
        } else {
            assert!(path.to_string_lossy().ends_with(".ndjson.gz"), "{path:?}");
            let mut text = String::new();
            flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
            assert!(!text.is_empty(), "an object without a row");
            found.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        }
    }
    found
}

async fn what_is_cold_leaves_for_a_directory_once(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("work-buddy").await;
    let data = json!({"n": 1.5, "ü": [true, null]});
    let notification = json!({"user_id": "alice", "title": "Lunch?", "body": "b", "context_data": data});
    let (shown, inbox) = (app.notify(&notification).await, app.user("alice").await);
    assert_eq!(inbox.patch(&shown, json!({"status": "dismissed"})).await.status, 200);
    let events: Vec<Value> = (0..900).map(|n| App::event("alice", n)).collect();
    for _ in 0..3 {
        let answer = app.request("POST", "/events/batch").json(&json!({"events": events})).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let shown_event = app.events("?limit=1").await.body["events"][0].clone();

    let folder = tempfile::TempDir::new().unwrap();
    let folder = folder.path().join("not/there/yet");
    let url = format!("file://{}", folder.display());
    // A node wrote an object and was killed before it committed that.
    let store = hub.database.store().await;
    assert_eq!(count(&archiver(&hub, &ALL).await.run().await.unwrap().retired, RetentionClass::Events), 2702);
    let begun = store.begin_export(ArchiveTable::Events, 500).await.unwrap().unwrap();
    assert_eq!((begun.rows, begun.lines.lines().count()), (500, 500));
    ObjectArchive::open(&url).unwrap().put(&begun.name(), begun.lines.clone()).await.unwrap();

    // Two other nodes continue at the same moment.
    let config = Retention { archive_url: Some(url), ..ALL };
    let (one, two) = (archiver(&hub, &config).await, archiver(&hub, &config).await);
    let (first, second) = tokio::join!(one.run(), two.run());
    let _ = (first.unwrap(), second.unwrap());
    store.finish_export(ArchiveTable::Events, begun.id).await.unwrap();

    let kept = lines(&folder.join("events"));
    let offsets: HashSet<u64> = kept.iter().map(|line| line["app_offset"].as_u64().unwrap()).collect();
    assert_eq!((kept.len(), offsets.len()), (2702, 2702), "each once");
    let newest = kept.iter().find(|line| line["app_offset"] == shown_event["offset"]).unwrap();
    for (column, field) in [
        ("id", "event_id"),
        ("app_id", "app_id"),
        ("user_id", "user_id"),
        ("event_type", "event_type"),
        ("entity_id", "entity_id"),
        ("event_data", "event_data"),
        ("timestamp", "timestamp"),
        ("created_at", "created_at"),
    ] {
        assert_eq!(newest[column], shown_event[field], "{column}");
    }
    assert_eq!((&newest["from_platform"], &newest["ip_address"]), (&json!(false), &json!("127.0.0.1")));
    let notifications = lines(&folder.join("notifications"));
    assert_eq!(notifications.len(), 1);
    assert_eq!(notifications[0]["context_data"], data);
    let states = lines(&folder.join("notification_states"));
    assert_eq!((&states[0]["notification_id"], &states[0]["status"]), (&json!(shown), &json!("dismissed")));
    for table in
        ["platform_events_archive", "platform_notifications_archive", "notification_state_archive", "archive_exports"]
    {
        assert_eq!(number(&hub, &format!("select count(*) from {table}")).await, 0, "{table}");
    }
}

/// An S3-like server (PyPI `moto`).
struct Bucket {
    server: std::process::Child,
    url: String,
}

impl Bucket {
    async fn start() -> Self {
        let moto = std::env::var("ORIVA_TEST_MOTO").expect("ORIVA_TEST_MOTO: run the tests with ./scripts/test");
        let port = crate::harness::redis::free_port().to_string();
        let mut command = std::process::Command::new(moto);
        let server = command.args(["-H", "127.0.0.1", "-p", &port]).stderr(Stdio::null()).stdout(Stdio::null());
        let bucket = Self { server: server.spawn().unwrap(), url: format!("http://127.0.0.1:{port}") };
        eventually("a bucket", async || {
            let made = bucket.request("PUT", "").body("").send().await;
            made.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        bucket
    }

    /// Sends a request as the bucket's owner. The server does not check signatures.
    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let owner =
            "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let request = reqwest::Client::new().request(method.parse().unwrap(), format!("{}/cold{path}", self.url));
        request.header("authorization", owner).timeout(std::time::Duration::from_secs(10))
    }

    async fn names(&self) -> Vec<String> {
        let listing = self.request("GET", "?list-type=2").send().await.unwrap().text().await.unwrap();
        listing.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
    }

    fn env(&self) -> [(&'static str, &str); 6] {
        [
            ("ORIVA_HUB__RETENTION__ARCHIVE_URL", "s3://cold/hub"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT", &self.url),
            ("AWS_ALLOW_HTTP", "true"),
        ]
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The store of a stopped hub, with one event in its archive table.
async fn with_an_old_event(backend: Backend) -> Database {
    let hub = TestHub::start(backend).await;
    hub.app("work-buddy").await.publish("alice", "old").await;
    let _ = archiver(&hub, &ALL).await.run().await.unwrap();
    hub.stop().await
}

fn archive(database: &Database, env: &[(&str, &str)]) -> std::process::Output {
    process::command(database, &["archive", "--json"]).envs(env.iter().copied()).output().unwrap()
}

async fn what_is_cold_leaves_for_a_bucket(backend: Backend) {
    let (database, bucket) = (with_an_old_event(backend).await, Bucket::start().await);
    let output = archive(&database, &bucket.env());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = bucket.names().await;
    assert!(names.len() == 1 && names[0].starts_with("hub/events/"), "{names:?}");
    let object = bucket.request("GET", &format!("/{}", names[0])).send().await.unwrap().bytes().await.unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*object).read_to_string(&mut text).unwrap();
    let line: Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!((&line["entity_id"], &line["app_id"]), (&json!("old"), &json!("work-buddy")));
}

async fn a_place_that_cannot_be_written_loses_nothing(backend: Backend) {
    let (database, bucket) = (with_an_old_event(backend).await, Bucket::start().await);
    let mut elsewhere = bucket.env();
    elsewhere[0].1 = "s3://no-such-bucket/hub";
    let output = archive(&database, &elsewhere);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("retention.archive_url"), "{told}");
    // The row waits, and is exported when there is an archive.
    assert!(archive(&database, &bucket.env()).status.success());
    assert_eq!(bucket.names().await.len(), 1);

    let refused = archive(&database, &[("ORIVA_HUB__RETENTION__ARCHIVE_URL", "ftp://cold")]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("retention.archive_url must be file:///DIRECTORY or s3://BUCKET/PREFIX"), "{told}");
}
