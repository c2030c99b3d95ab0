//! What single steps cost: `cargo bench --bench micro`. SQLite needs no server; PostgreSQL is measured where
//! `ORIVA_BENCH_POSTGRES` names an empty database of one's own.

use std::{hint::black_box, sync::Arc, time::Duration};

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use oriva_hub::{
    outbound,
    store::{
        Audit, Lease, NewApp, NewEvent, NewWebhook, Origin, PublishBatch, Store, Submission, postgres::PostgresStore,
        sqlite::SqliteStore,
    },
};
use oriva_hub_actors::{
    model::{AppId, Category, EventId, EventPattern, EventType, JsonObject, StreamKind, Timestamp, UserId, WebhookId},
    ports::SigningSecret,
    protocol::PublishedEvent,
    testing::{FanOut, Routing, assemble, event},
};

const BATCH: usize = 100;

fn words(c: &mut Criterion) {
    let pattern = EventPattern::parse("notification.*").expect("a pattern");
    c.bench_function("pattern match", |b| b.iter(|| black_box(&pattern).matches(black_box("notification.dismissed"))));

    c.bench_function("event encode", |b| {
        b.iter_batched(|| event("alice", 7, 42), |event| event.frame(StreamKind::User), BatchSize::SmallInput);
    });
    c.bench_function("event heard from another node", |b| {
        let published = event("alice", 7, 42);
        let (frame, offsets) = (published.frame(StreamKind::User), published.event().offsets);
        b.iter(|| PublishedEvent::from_frame(StreamKind::User, black_box(frame.clone()), offsets, false, None));
    });

    let text = br#"{"action":"subscribe","event_types":["notification.*","session.*"],"id":"1"}"#;
    let mut frame = BytesMut::from(&[0x81, 0x80 | text.len() as u8, 1, 2, 3, 4][..]);
    frame.extend(text.iter().enumerate().map(|(n, byte)| byte ^ [1, 2, 3, 4][n % 4]));
    c.bench_function("frame parse", |b| b.iter_batched(|| frame.clone(), assemble, BatchSize::SmallInput));

    let secret = SigningSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
    let body = vec![b'x'; 512];
    c.bench_function("webhook signing, 512 bytes, both schemes", |b| {
        b.iter(|| outbound::sign(&secret, "0190", 1_700_000_000, black_box(&body)));
    });
}

fn session(c: &mut Criterion) {
    let mut group = c.benchmark_group("session fan-out");
    for sockets in [1, 10] {
        group.throughput(Throughput::Elements(sockets as u64));
        group.bench_function(format!("{sockets} sockets"), |b| {
            let mut user = FanOut::new(sockets);
            b.iter(|| user.deliver());
        });
    }
}

fn registry(c: &mut Criterion) {
    const USERS: usize = 1000;
    let system = actix::System::new();
    let mut routing = system.block_on(Routing::start(USERS));
    let mut group = c.benchmark_group("registry");
    group.throughput(Throughput::Elements(USERS as u64));
    group.bench_function(format!("routing of an event to each of {USERS} users online"), |b| {
        b.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let batch = routing.batch();
                let began = std::time::Instant::now();
                assert_eq!(system.block_on(routing.route(batch)), USERS);
                took += began.elapsed();
            }
            took
        });
    });
}

/// A store with an app, and what writes one batch of events to it.
async fn prepare(store: &dyn Store) -> Submission {
    store.migrate().await.expect("migrated");
    let app = AppId::parse(&format!("bench-{:08x}", rand::random::<u32>())).expect("a slug");
    let audit = Audit { actor: "bench".to_owned(), ip: None };
    let new = NewApp {
        id: app.clone(),
        name: "bench".to_owned(),
        icon_url: None,
        is_platform: false,
        limits: std::collections::BTreeMap::new(),
    };
    store.create_app(&new, None, &audit).await.expect("an app");
    submission(&app, BATCH)
}

fn submission(app: &AppId, events: usize) -> Submission {
    let events = (0..events)
        .map(|n| NewEvent {
            id: EventId::generate(),
            app_id: app.clone(),
            from_platform: false,
            user_id: Some(UserId::parse(&format!("user{n}")).expect("an id")),
            category: Category::Notification,
            event_type: EventType::from_store("created"),
            entity_type: "notification".to_owned(),
            entity_id: "n1".to_owned(),
            data: JsonObject::empty(),
            timestamp: Timestamp::now(),
        })
        .map(Ok)
        .collect();
    let origin = Origin { actor: app.to_string(), ip: None, user_agent: None, trace: None };
    Submission::new(app, origin, PublishBatch { items: events })
}

fn stores(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::TempDir::new().expect("a folder");
    let url = format!("sqlite://{}/hub.db", folder.path().display());
    let sqlite = runtime.block_on(SqliteStore::open(&url, 2)).expect("opened");
    let mut stores: Vec<(&str, Arc<dyn Store>)> = vec![("sqlite", Arc::new(sqlite))];
    if let Ok(url) = std::env::var("ORIVA_BENCH_POSTGRES") {
        // A pool needs the runtime.
        let _inside = runtime.enter();
        let store = PostgresStore::new(&url, 2).expect("a URL");
        stores.push(("postgres", Arc::new(store)));
    }
    let mut group = c.benchmark_group("store");
    group.sample_size(20).measurement_time(Duration::from_secs(5));
    for (name, store) in &stores {
        let batch = runtime.block_on(prepare(&**store));
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(format!("{name}: writer batch of {BATCH} events"), |b| {
            b.to_async(&runtime).iter_batched(
                || submission(&batch.app_id, BATCH),
                |batch| async move { store.append(std::slice::from_ref(&batch)).await.expect("written") },
                BatchSize::SmallInput,
            );
        });
        let webhook = runtime.block_on(owe(&**store, &batch.app_id));
        group.throughput(Throughput::Elements(8));
        group.bench_function(format!("{name}: claim of 8 due deliveries of many"), |b| {
            b.to_async(&runtime).iter(|| async {
                let now = Timestamp::now();
                // A lease that is over at once: the next one claims them again.
                let lease = Lease { owner: uuid::Uuid::now_v7(), length: Duration::ZERO };
                let claimed = store.claim_deliveries(webhook, 8, lease, now).await.expect("claimed");
                store.free_leases().await.expect("freed");
                claimed
            });
        });
    }
}

/// A webhook to which many deliveries are owed.
async fn owe(store: &dyn Store, app: &AppId) -> WebhookId {
    let audit = Audit { actor: "bench".to_owned(), ip: None };
    let new = NewWebhook {
        id: WebhookId::generate(),
        app_id: app.clone(),
        url: "https://example.org/".to_owned(),
        secret: vec![1; 48],
        subscribed_events: vec!["**".to_owned()],
        description: None,
        max_retries: 5,
        retry_backoff_seconds: 1,
        payload: Default::default(),
    };
    store.create_webhook(&new, u32::MAX, &audit).await.expect("written").expect("a webhook");
    for _ in 0..50 {
        store.append(&[submission(app, BATCH)]).await.expect("written");
    }
    new.id
}

criterion_group!(benches, words, session, registry, stores);
criterion_main!(benches);
