//! The store conformance suite: both stores behave alike.

mod inbox;
mod outbox;
mod retention;

use std::sync::Arc;

use oriva_hub::store::{
    AppChange, Audit, EventFilter, EventPosition, IdempotencyClaim, KeyedOutcome, NewApp, NewEvent, NewKey, Origin,
    Outcome, PageRequest, PublishBatch, Store, StoreError, Submission,
};
use oriva_hub_actors::{
    model::{AppId, Category, EventId, EventType, JsonObject, KeyId, StreamKey, Timestamp, UserId},
    ports::{Page, PageLimit},
};
use sqlx_pg::{Connection as _, Executor as _, PgConnection, Row as _};

use crate::{
    harness::{Backend, Database, eventually},
    on_both_stores,
};

on_both_stores!(
    offsets_are_dense_in_every_stream,
    concurrent_appends_neither_deadlock_nor_leave_gaps,
    a_claimed_key_answers_again_and_other_content_is_a_mismatch,
    an_expired_claim_is_taken_anew,
    a_page_continues_after_an_offset,
    pages_of_many_streams_are_read_at_once_and_bounded_in_bytes,
    events_come_back_as_they_were_written,
    filters_narrow_and_cursors_continue,
    apps_and_keys_live_and_die,
    an_app_with_data_cannot_be_deleted,
    the_epoch_stays_until_it_is_renewed,
    a_schema_that_was_never_made_is_outdated,
);

fn app_id(text: &str) -> AppId {
    AppId::parse(text).unwrap()
}

fn user_stream(text: &str) -> StreamKey {
    StreamKey::User(UserId::parse(text).unwrap())
}

fn audit() -> Audit {
    Audit { actor: "test".to_owned(), ip: Some("127.0.0.1".parse().unwrap()) }
}

async fn store_with(backend: Backend, apps: &[&str]) -> (Database, Arc<dyn Store>) {
    let database = Database::new(backend).await;
    let store = database.store().await;
    for app in apps {
        let app = NewApp {
            id: app_id(app),
            name: (*app).to_owned(),
            icon_url: None,
            is_platform: false,
            limits: Default::default(),
        };
        store.create_app(&app, None, &audit()).await.unwrap();
    }
    (database, store)
}

fn event(user: Option<&str>, entity_id: &str) -> NewEvent {
    NewEvent {
        id: EventId::generate(),
        app_id: app_id("a"),
        from_platform: false,
        user_id: user.map(|user| UserId::parse(user).unwrap()),
        category: Category::Notification,
        event_type: EventType::from_store("created"),
        entity_type: "thing".to_owned(),
        entity_id: entity_id.to_owned(),
        data: JsonObject::from_store(r#"{"a":[1,"zwei",null]}"#.to_owned()).unwrap(),
        timestamp: Timestamp::now(),
    }
}

fn submission(app: &str, events: Vec<NewEvent>) -> Submission {
    let app_id = app_id(app);
    let origin = Origin {
        actor: app.to_owned(),
        ip: Some("10.1.2.3".parse().unwrap()),
        user_agent: Some("test/1".into()),
        trace: None,
    };
    let items = events.into_iter().map(|event| Ok(NewEvent { app_id: app_id.clone(), ..event })).collect();
    Submission::new(&app_id, origin, PublishBatch { items })
}

/// A page with room for this number of events.
async fn page(store: &Arc<dyn Store>, stream: &StreamKey, after: u64, events: usize) -> Page {
    let limit = PageLimit { events, bytes: usize::MAX };
    let request = PageRequest { stream: stream.clone(), after };
    store.pages(&[request], limit).await.unwrap().remove(0)
}

fn claimed(app: &str, key: &str, hash: u8, expires_at: Timestamp) -> Submission {
    let claim = IdempotencyClaim { key: key.to_owned(), request_hash: [hash; 32], expires_at };
    Submission { claim: Some(claim), ..submission(app, vec![event(Some("alice"), "e")]) }
}

async fn offsets_are_dense_in_every_stream(backend: Backend) {
    let (_database, store) = store_with(backend, &["a", "b"]).await;
    for round in 0..3_u64 {
        let outcomes = store
            .append(&[
                submission("a", vec![event(Some("alice"), "1"), event(Some("bob"), "2"), event(None, "3")]),
                submission("b", vec![event(Some("alice"), "4")]),
            ])
            .await
            .unwrap();
        let offsets: Vec<_> = outcomes
            .iter()
            .flat_map(|appended| appended.events.clone())
            .map(|event| event.event().offsets)
            .map(|offsets| (offsets.app, offsets.user, offsets.broadcast))
            .collect();
        let expected = [
            (round * 3 + 1, Some(round * 2 + 1), None),
            (round * 3 + 2, Some(round + 1), None),
            (round * 3 + 3, None, Some(round + 1)),
            (round + 1, Some(round * 2 + 2), None),
        ];
        assert_eq!(offsets, expected, "round {round}");
    }
    assert_eq!(store.head(&user_stream("alice")).await.unwrap(), 6);
    assert_eq!(store.head(&StreamKey::App(app_id("a"))).await.unwrap(), 9);
    assert_eq!(store.head(&StreamKey::Broadcast).await.unwrap(), 3);
    assert_eq!(store.head(&user_stream("nobody")).await.unwrap(), 0);
    let streams = [user_stream("nobody"), StreamKey::Broadcast, user_stream("alice"), StreamKey::App(app_id("a"))];
    assert_eq!(store.heads(&streams).await.unwrap(), [0, 3, 6, 9]);
}

async fn concurrent_appends_neither_deadlock_nor_leave_gaps(backend: Backend) {
    let (database, first) = store_with(backend, &["a", "b"]).await;
    let second = database.store().await;
    let mut tasks = Vec::new();
    for (number, store) in [first.clone(), second].into_iter().enumerate() {
        for lane in 0..4 {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                for round in 0..20 {
                    // Each writes to the same streams in another order.
                    let mut users = ["alice", "bob", "carol"];
                    users.rotate_left((number + lane + round) % 3);
                    let events = users.map(|user| event(Some(user), "x")).to_vec();
                    let app = if (lane + round) % 2 == 0 { "a" } else { "b" };
                    store.append(&[submission(app, events)]).await.unwrap();
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    for user in ["alice", "bob", "carol"] {
        let stream = user_stream(user);
        assert_eq!(first.head(&stream).await.unwrap(), 160);
        let page = page(&first, &stream, 0, 1000).await;
        let offsets: Vec<_> = page.events.iter().map(|event| event.event().offsets.user.unwrap()).collect();
        assert_eq!(offsets, (1..=160).collect::<Vec<_>>());
    }
}

async fn a_claimed_key_answers_again_and_other_content_is_a_mismatch(backend: Backend) {
    let (_database, store) = store_with(backend, &["a", "b"]).await;
    let later = Timestamp::parse("2999-01-01T00:00:00Z").unwrap();
    let first = store.append(&[claimed("a", "k", 1, later)]).await.unwrap();
    let Outcome::PublishBatch(KeyedOutcome::Done(receipts)) = &first[0].outcome else { panic!("{first:?}") };
    let again =
        store.append(&[claimed("a", "k", 1, later), claimed("a", "k", 2, later), claimed("b", "k", 2, later)]).await;
    // The hub prevents the same key twice in one batch. Here both find the claim of an earlier batch.
    let again = again.unwrap();
    let is_same = |once: &KeyedOutcome<_>| matches!(once, KeyedOutcome::Replayed(same) if same == receipts);
    assert!(matches!(&again[0].outcome, Outcome::PublishBatch(once) if is_same(once)), "{again:?}");
    assert!(matches!(&again[1].outcome, Outcome::PublishBatch(KeyedOutcome::Mismatch)), "{again:?}");
    let is_done = matches!(&again[2].outcome, Outcome::PublishBatch(KeyedOutcome::Done(_)));
    assert!(is_done, "another app's key is another key: {again:?}");
    assert_eq!(store.head(&StreamKey::App(app_id("a"))).await.unwrap(), 1);
}

async fn an_expired_claim_is_taken_anew(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    let past = Timestamp::parse("2020-01-01T00:00:00Z").unwrap();
    store.append(&[claimed("a", "k", 1, past)]).await.unwrap();
    let second = store.append(&[claimed("a", "k", 2, past)]).await.unwrap();
    assert!(matches!(&second[0].outcome, Outcome::PublishBatch(KeyedOutcome::Done(_))), "{second:?}");
    assert_eq!(store.purge_idempotency_keys(Timestamp::now(), 10).await.unwrap(), 1);
    assert_eq!(store.purge_idempotency_keys(Timestamp::now(), 10).await.unwrap(), 0);
}

async fn a_page_continues_after_an_offset(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    let events = (0..25).map(|n| event(Some("alice"), &n.to_string())).collect();
    store.append(&[submission("a", events), submission("a", vec![event(None, "b")])]).await.unwrap();
    for stream in [user_stream("alice"), StreamKey::App(app_id("a"))] {
        let page = page(&store, &stream, 10, 5).await;
        let offsets: Vec<_> = page.events.iter().map(|event| event.offset_in(stream.kind())).collect();
        assert_eq!(offsets, [11, 12, 13, 14, 15]);
    }
    assert_eq!(page(&store, &user_stream("alice"), 10, 5).await.head, 25);
    let beyond = page(&store, &user_stream("alice"), 99, 5).await;
    assert!(beyond.events.is_empty() && beyond.head == 25);
    assert_eq!(page(&store, &StreamKey::Broadcast, 0, 5).await.events.len(), 1);
    assert!(page(&store, &user_stream("bob"), 0, 5).await.events.is_empty());
}

async fn pages_of_many_streams_are_read_at_once_and_bounded_in_bytes(backend: Backend) {
    use oriva_hub_actors::model::StreamKind::{App, Broadcast, User};

    let (_database, store) = store_with(backend, &["a", "b"]).await;
    let large = JsonObject::from_store(format!(r#"{{"a":"{}"}}"#, "é".repeat(500))).unwrap();
    let events = |user| (0..7).map(|n| NewEvent { data: large.clone(), ..event(user, &n.to_string()) }).collect();
    for user in [Some("alice"), None, Some("bob")] {
        store.append(&[submission("a", events(user))]).await.unwrap();
    }
    store.append(&[submission("b", vec![event(Some("alice"), "of b")])]).await.unwrap();
    let request = |stream: &StreamKey, after| PageRequest { stream: stream.clone(), after };
    let (alice, app, nobody) = (user_stream("alice"), StreamKey::App(app_id("a")), user_stream("nobody"));
    let requests = [
        request(&app, 19),
        request(&alice, 0),
        request(&StreamKey::Broadcast, 0),
        request(&nobody, 0),
        request(&alice, 6),
        request(&alice, 8),
        request(&app, 99),
    ];
    let read = async |events, bytes| {
        let pages = store.pages(&requests, PageLimit { events, bytes }).await.unwrap();
        let kinds = [App, User, Broadcast, User, User, User, App];
        let offsets =
            |page: &Page, kind| page.events.iter().filter_map(|event| event.event().offset_in(kind)).collect();
        kinds
            .into_iter()
            .zip(&pages)
            .map(|(kind, page)| (offsets(page, kind), page.head))
            .collect::<Vec<(Vec<u64>, u64)>>()
    };
    let expect = |offsets: [&[u64]; 4]| {
        let [app, alice, broadcast, late] = offsets.map(<[u64]>::to_vec);
        let none = Vec::new;
        vec![(app, 21), (alice, 8), (broadcast, 7), (none(), 0), (late, 8), (none(), 8), (none(), 21)]
    };
    assert_eq!(read(3, usize::MAX).await, expect([&[20, 21], &[1, 2, 3], &[1, 2, 3], &[7, 8]]));
    // Each event has 1008 bytes of data, the last of alice's 21.
    assert_eq!(read(100, 2016).await, expect([&[20, 21], &[1, 2], &[1, 2], &[7, 8]]));
    assert_eq!(read(100, 1).await, expect([&[20], &[1], &[1], &[7]]), "one at least");
    assert!(store.pages(&[], PageLimit { events: 1, bytes: 1 }).await.unwrap().is_empty());
}

async fn events_come_back_as_they_were_written(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    let written = event(Some("Ünïcode|user"), "e'1\"\\");
    store.append(&[submission("a", vec![written.clone()])]).await.unwrap();
    let page = page(&store, &StreamKey::App(app_id("a")), 0, 1).await;
    let read = page.events[0].event();
    assert_eq!((read.id, &read.user_id), (written.id, &written.user_id));
    assert_eq!((&read.entity_type, &read.entity_id), (&written.entity_type, &written.entity_id));
    assert_eq!(read.timestamp, written.timestamp);
    let (have, want): (serde_json::Value, serde_json::Value) =
        (serde_json::from_str(read.data.as_str()).unwrap(), serde_json::from_str(written.data.as_str()).unwrap());
    assert_eq!(have, want);
}

async fn filters_narrow_and_cursors_continue(backend: Backend) {
    let (_database, store) = store_with(backend, &["a", "b"]).await;
    let start = Timestamp::from_unix_ms(Timestamp::now().unix_ms() - 100);
    let mut events: Vec<_> = (0..10).map(|n| event(Some("alice"), &n.to_string())).collect();
    events[3].category = Category::User;
    events[4].event_type = EventType::from_store("dismissed");
    events[5].user_id = Some(UserId::parse("bob").unwrap());
    events.iter_mut().for_each(|event| event.timestamp = Timestamp::from_unix_ms(start.unix_ms() + 1));
    events[0].timestamp = start;
    events[1].user_id = Some(UserId::parse("bob").unwrap());
    store.append(&[submission("a", events), submission("b", vec![event(Some("alice"), "x")])]).await.unwrap();
    let list = async |filter: EventFilter| {
        let page = store.events(&app_id("a"), &filter).await.unwrap();
        let offsets: Vec<_> = page.events.iter().map(|event| event.event().offsets.app).collect();
        (offsets, page.total)
    };
    let all = EventFilter { limit: 100, ..EventFilter::default() };
    assert_eq!(list(all.clone()).await, ((1..=10).rev().collect(), 10));
    let with = |change: fn(&mut EventFilter)| {
        let mut filter = all.clone();
        change(&mut filter);
        filter
    };
    assert_eq!(list(with(|f| f.category = Some(Category::User))).await, (vec![4], 1));
    assert_eq!(list(with(|f| f.event_type = Some("dismissed".to_owned()))).await, (vec![5], 1));
    assert_eq!(list(with(|f| f.event_type = Some("notification.dismissed".to_owned()))).await, (vec![5], 1));
    assert_eq!(list(with(|f| f.event_type = Some("user.dismissed".to_owned()))).await, (vec![], 0));
    assert_eq!(list(with(|f| f.user_id = Some("bob".to_owned()))).await, (vec![6, 2], 2));
    assert_eq!(list(with(|f| f.entity_id = Some("7".to_owned()))).await, (vec![8], 1));
    let until = EventFilter { end: Some(start), ..all.clone() };
    assert_eq!(list(until).await, (vec![1], 1), "inclusive");
    let since = EventFilter { start: Some(start), ..all.clone() };
    assert_eq!(list(since.clone()).await.1, 10, "inclusive");
    assert_eq!(list(with(|f| (f.limit, f.offset) = (3, 2))).await, (vec![8, 7, 6], 10));
    // A cursor continues in whichever order the filter has.
    let of_bob = EventFilter { user_id: Some("bob".to_owned()), limit: 1, ..EventFilter::default() };
    let later = EventFilter { start: Some(Timestamp::from_unix_ms(start.unix_ms() + 1)), limit: 2, ..since.clone() };
    let of_bob_since = EventFilter { start: Some(start), ..of_bob.clone() };
    for (mut filter, expected) in [
        (EventFilter { limit: 3, ..all.clone() }, (1..=10).rev().collect()),
        (later, (2..=10).rev().collect::<Vec<_>>()),
        (of_bob, vec![6, 2]),
        (of_bob_since, vec![6, 2]),
    ] {
        let mut offsets = Vec::new();
        loop {
            let page = store.events(&app_id("a"), &filter).await.unwrap();
            assert_eq!(page.total, expected.len() as u64);
            offsets.extend(page.events.iter().map(|event| event.event().offsets.app));
            let Some(last) = page.events.last() else { break };
            filter.before = Some(EventPosition::from_event(last.event()));
        }
        assert_eq!(offsets, expected);
    }
}

/// The seed's T001: comments on tables and columns, and checks where the data is.
#[actix_web::test]
async fn postgres_explains_its_columns_and_checks_its_rows() {
    let (database, _store) = store_with(Backend::Postgres, &["a"]).await;
    let mut owner = PgConnection::connect(&database.owner_url).await.unwrap();
    let query = "select c.relname || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid \
                 where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attnum > 0 \
                 and not a.attisdropped and c.relname not like '%archive' and c.relname <> '_sqlx_migrations' \
                 and col_description(c.oid, a.attnum) is null order by 1";
    let unexplained: Vec<String> = sqlx_pg::query_scalar(query).fetch_all(&mut owner).await.unwrap();
    assert!(unexplained.is_empty(), "{unexplained:?}");
    for (insert, check) in [
        (
            "insert into platform_events (id, app_id, user_id, event_category, event_type, entity_type, entity_id, \
             from_platform, app_offset, user_offset, timestamp, created_at) \
             values (gen_random_uuid(), 'a', 'u', 'user', '1x', 't', '1', false, 1, 1, now(), now())",
            "platform_events_event_type_form",
        ),
        (
            "insert into platform_notifications (id, app_id, user_id, title, body, expires_at) \
             values (gen_random_uuid(), 'a', 'u', 't', 'b', now() - interval '1 s')",
            "platform_notifications_expires_later",
        ),
        (
            "insert into app_webhooks (id, app_id, webhook_url, secret, subscribed_events) \
             values (gen_random_uuid(), 'a', 'ftp://x', '', '{**}')",
            "app_webhooks_url_scheme",
        ),
    ] {
        let refused = owner.execute(insert).await.unwrap_err();
        assert_eq!(refused.as_database_error().and_then(|error| error.constraint()), Some(check), "{refused}");
    }
}

/// PostgreSQL counts what it reads of each index. SQLite's plans are looked at in `src/store/sql/events.rs`.
#[actix_web::test]
async fn dates_and_users_are_found_by_index() {
    let (database, store) = store_with(Backend::Postgres, &["a"]).await;
    for part in 0..20 {
        let events = (0..1000).map(|n| event(Some("alice"), &(part * 1000 + n).to_string())).collect();
        store.append(&[submission("a", events)]).await.unwrap();
    }
    store.append(&[submission("a", vec![event(Some("bob"), "x")])]).await.unwrap();
    let mut owner = PgConnection::connect(&database.owner_url).await.unwrap();
    owner.execute("analyze platform_events").await.unwrap();
    let past = Timestamp::parse("2020-01-01T00:00:00Z").unwrap();
    let future = Timestamp::parse("2999-01-01T00:00:00Z").unwrap();
    let filter = || EventFilter { limit: 100, ..EventFilter::default() };
    for (filter, count) in [
        (EventFilter { end: Some(past), ..filter() }, 0),
        (EventFilter { start: Some(future), ..filter() }, 0),
        (EventFilter { start: Some(past), ..filter() }, 100),
        (EventFilter { user_id: Some("bob".to_owned()), ..filter() }, 1),
        (EventFilter { user_id: Some("nobody".to_owned()), ..filter() }, 0),
    ] {
        assert_eq!(store.events(&app_id("a"), &filter).await.unwrap().events.len(), count, "{filter:?}");
    }
    let mut read = async |index: &str| {
        let query = "select idx_scan, idx_tup_read from pg_stat_user_indexes where indexrelname = $1";
        let row = sqlx_pg::query(query).bind(index).fetch_one(&mut owner).await.unwrap();
        (row.get::<i64, _>(0), row.get::<i64, _>(1))
    };
    // Each connection writes its own, when it is idle.
    eventually("the counters are written", async || {
        let (dates, users) = (read("platform_events_app_dates").await, read("platform_events_user_offset").await);
        dates.0 >= 6 && dates.1 > 10_000 && users.0 >= 4
    })
    .await;
    let (dates, users) = (read("platform_events_app_dates").await, read("platform_events_user_offset").await);
    assert!(dates.0 >= 6 && dates.1 <= 100 + 10_001 && users.1 <= 2, "{dates:?} {users:?}");
    assert_eq!(read("platform_events_app_offset").await, (0, 0));
}

async fn apps_and_keys_live_and_die(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    let revision = store.revisions().await.unwrap().identity;
    let again = NewApp {
        id: app_id("a"),
        name: "A".to_owned(),
        icon_url: None,
        is_platform: false,
        limits: Default::default(),
    };
    assert!(matches!(store.create_app(&again, None, &audit()).await, Err(StoreError::Duplicate)));
    let key = NewKey { id: KeyId::generate(), app_id: app_id("a"), hash: [7; 32], prefix: "ohk_xxxxxxxx".to_owned() };
    store.add_key(&key, &audit()).await.unwrap();
    let orphan = NewKey { id: KeyId::generate(), app_id: app_id("none"), hash: [8; 32], prefix: "p".to_owned() };
    assert!(matches!(store.add_key(&orphan, &audit()).await, Err(StoreError::InUse)));

    let (found, app) = store.key_by_hash(&[7; 32]).await.unwrap().unwrap();
    assert_eq!((found.id, app.id.as_str(), found.last_used_at), (key.id, "a", None));
    assert!(store.key_by_hash(&[9; 32]).await.unwrap().is_none());
    let now = Timestamp::now();
    store.touch_keys(&[(key.id, now)]).await.unwrap();
    assert_eq!(store.keys(&app_id("a")).await.unwrap()[0].last_used_at, Some(now));

    let revoked = store.revoke_key(key.id, &audit()).await.unwrap().unwrap().revoked_at;
    assert!(revoked.is_some());
    assert_eq!(store.revoke_key(key.id, &audit()).await.unwrap().unwrap().revoked_at, revoked, "once");
    assert!(store.revoke_key(KeyId::generate(), &audit()).await.unwrap().is_none());

    let change = AppChange {
        is_active: Some(false),
        limits: Some([("publish".to_owned(), 5)].into()),
        icon_url: Some(Some("https://x.example/i.png".to_owned())),
        ..AppChange::default()
    };
    let changed = store.update_app(&app_id("a"), &change, &audit()).await.unwrap().unwrap();
    assert!(!changed.is_active && changed.name == "a" && changed.limits["publish"] == 5);
    let back = AppChange { icon_url: Some(None), ..AppChange::default() };
    assert_eq!(store.update_app(&app_id("a"), &back, &audit()).await.unwrap().unwrap().icon_url, None);
    assert!(store.update_app(&app_id("none"), &back, &audit()).await.unwrap().is_none());

    assert!(store.valid_keys(&[key.id, KeyId::generate()]).await.unwrap().is_empty());
    let live = NewKey { id: KeyId::generate(), hash: [2; 32], ..key.clone() };
    store.add_key(&live, &audit()).await.unwrap();
    assert_eq!(store.valid_keys(&[key.id, live.id]).await.unwrap(), [live.id].into());
    assert!(store.revisions().await.unwrap().identity > revision, "other nodes must notice");
}

async fn an_app_with_data_cannot_be_deleted(backend: Backend) {
    let (_database, store) = store_with(backend, &["a", "b"]).await;
    store.append(&[submission("a", vec![event(Some("alice"), "1")])]).await.unwrap();
    assert!(matches!(store.delete_app(&app_id("a"), &audit()).await, Err(StoreError::InUse)));
    assert!(store.delete_app(&app_id("b"), &audit()).await.unwrap());
    assert!(!store.delete_app(&app_id("b"), &audit()).await.unwrap());
    assert_eq!(store.apps().await.unwrap().len(), 1);
}

async fn the_epoch_stays_until_it_is_renewed(backend: Backend) {
    let (database, store) = store_with(backend, &[]).await;
    let epoch = store.epoch().await.unwrap();
    assert_eq!(database.store().await.epoch().await.unwrap(), epoch);
    assert_eq!(store.renew_epoch(Some("another")).await.unwrap(), epoch, "somebody else was quicker");
    let renewed = store.renew_epoch(Some(&epoch)).await.unwrap();
    assert_ne!(renewed, epoch);
    assert_eq!(store.revisions().await.unwrap().epoch, *renewed);
    assert_eq!(database.store().await.epoch().await.unwrap(), renewed);
}

async fn a_schema_that_was_never_made_is_outdated(backend: Backend) {
    let database = Database::new(backend).await;
    match backend {
        Backend::Sqlite => {
            let store = oriva_hub::store::sqlite::SqliteStore::open(&database.url, 2).await.unwrap();
            assert!(matches!(store.check_schema().await, Err(StoreError::Outdated)));
        }
        Backend::Postgres => {
            let mut owner = PgConnection::connect(&database.owner_url).await.unwrap();
            owner.execute("delete from _sqlx_migrations").await.unwrap();
            assert!(matches!(database.store().await.check_schema().await, Err(StoreError::Outdated)));
        }
    }
}

/// Row level security, with plain SQL as the tenant role and as the hub's login.
#[tokio::test]
async fn the_tenant_role_sees_nothing_of_others() {
    let (database, store) = store_with(Backend::Postgres, &["a", "b"]).await;
    store
        .append(&[
            submission("a", vec![event(Some("alice"), "1"), event(Some("bob"), "2")]),
            submission("b", vec![event(Some("alice"), "3"), event(None, "4")]),
        ])
        .await
        .unwrap();
    let mut hub = PgConnection::connect(&database.url).await.unwrap();
    let row = hub
        .fetch_one(
            "select rolsuper, rolbypassrls, exists (select from pg_tables where tableowner = current_user \
             and schemaname = 'public') from pg_roles where rolname = current_user",
        )
        .await
        .unwrap();
    assert!((0..3).all(|column| !row.get::<bool, _>(column)), "the hub's login owns and overrides nothing");

    let mut count = async |app: &str, user: &str, table: &str| {
        let mut transaction = hub.begin().await.unwrap();
        sqlx_pg::query(
            "select set_config('role', 'oriva_hub_tenant', true), set_config('oriva.app_id', $1, true), \
             set_config('oriva.user_id', $2, true)",
        )
        .bind(app)
        .bind(user)
        .execute(&mut *transaction)
        .await
        .unwrap();
        let sql = format!("select count(*) from {table}");
        let count: i64 = sqlx_pg::query_scalar(&sql).fetch_one(&mut *transaction).await.unwrap();
        transaction.rollback().await.unwrap();
        count
    };
    assert_eq!(count("a", "", "platform_events").await, 2);
    assert_eq!(count("b", "", "platform_events").await, 2);
    assert_eq!(count("", "alice", "platform_events").await, 2);
    assert_eq!(count("", "", "platform_events").await, 0, "no tenant, no rows");
    assert_eq!(count("a", "", "apps").await, 1);
    assert_eq!(count("a", "", "streams").await, 1);
    for table in ["hub_meta", "idempotency_keys", "platform_events_archive"] {
        assert_eq!(count("a", "alice", table).await, 0, "{table}");
    }
    let mut transaction = hub.begin().await.unwrap();
    transaction
        .execute("select set_config('role', 'oriva_hub_tenant', true), set_config('oriva.app_id', 'a', true)")
        .await
        .unwrap();
    let moved = transaction.execute("update platform_events set app_id = 'a' where app_id = 'b'").await.unwrap();
    assert_eq!(moved.rows_affected(), 0, "another's row cannot be taken");
    let forged = transaction.execute("update platform_events set app_id = 'b'").await;
    assert!(forged.is_err(), "nor a row be given to another");
}

/// Fails for a table with an `app_id` or `user_id` that has no policy.
#[tokio::test]
async fn every_table_has_row_level_security() {
    let database = Database::new(Backend::Postgres).await;
    let mut owner = PgConnection::connect(&database.owner_url).await.unwrap();
    let open: Vec<String> = sqlx_pg::query_scalar(
        "select relname::text from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace \
         and not relrowsecurity and relname <> '_sqlx_migrations'",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert_eq!(open, Vec::<String>::new());
}
