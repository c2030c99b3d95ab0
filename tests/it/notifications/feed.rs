//! `GET /users/{user_id}/notifications`, its counts, its cursor and its cost (T006, T029).

use serde_json::json;

use crate::{
    harness::{App, Backend, TestHub, callers::read},
    on_both_stores,
};

on_both_stores!(
    a_feed_goes_from_urgent_to_low_and_from_new_to_old,
    filters_narrow_a_feed,
    a_cursor_stays_exact_while_notifications_arrive,
    a_cursor_that_the_hub_did_not_make_is_refused,
    everybody_sees_what_is_theirs,
    counts_are_never_stale_to_the_writer,
    a_feed_agrees_with_itself_while_it_changes,
    bad_parameters_are_named,
    a_total_is_capped,
    a_feed_and_its_expiries_are_read_by_index,
);

async fn make(app: &App, title: &str, priority: &str) -> String {
    let mut body = App::notification("alice", title);
    body["priority"] = json!(priority);
    body["notification_type"] = json!(format!("type-{priority}"));
    let id = app.notify(&body).await;
    // The next one gets a later `created_at`.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    id
}

async fn a_feed_goes_from_urgent_to_low_and_from_new_to_old(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    for (title, priority) in
        [("n1", "normal"), ("l1", "low"), ("u1", "urgent"), ("h1", "high"), ("n2", "normal"), ("u2", "critical")]
    {
        make(&app, title, priority).await;
    }
    let alice = app.user("alice").await;
    assert_eq!(alice.titles("").await, ["u2", "u1", "h1", "n2", "n1", "l1"]);
    let page = alice.feed("?limit=2&offset=2").await.body;
    assert_eq!(
        (&page["total"], &page["limit"], &page["offset"], &page["unread_count"]),
        (&json!(6), &json!(2), &json!(2), &json!(6))
    );
    assert_eq!(alice.titles("?limit=2&offset=2").await, ["h1", "n2"]);
    assert!(alice.feed("?limit=6").await.body["next_cursor"].is_string());
    assert_eq!(alice.feed("?limit=7").await.body["next_cursor"], json!(null));
}

async fn filters_narrow_a_feed(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (one, two, core) = (hub.app("one").await, hub.app("two").await, hub.platform_app("core").await);
    let alice = core.user("alice").await;
    let read = make(&one, "read", "normal").await;
    let dismissed = make(&one, "dismissed", "low").await;
    alice.set(&read, "read").await;
    alice.set(&dismissed, "dismissed").await;
    let since = alice.get(&make(&two, "two", "high").await).await.body["created_at"].as_str().unwrap().to_owned();
    make(&one, "new", "normal").await;
    assert_eq!(alice.titles("").await, ["two", "new", "read", "dismissed"]);
    assert_eq!(alice.titles("?status=unread").await, ["two", "new"]);
    assert_eq!(alice.titles("?status=unread&status=dismissed").await, ["two", "new", "dismissed"]);
    assert_eq!(alice.titles("?status=expired").await, Vec::<String>::new());
    assert_eq!(alice.titles("?app_id=one&status=unread").await, ["new"]);
    assert_eq!(alice.titles("?app_id=nobody").await, Vec::<String>::new());
    assert_eq!(alice.titles("?notification_type=type-normal").await, ["new", "read"]);
    assert_eq!(alice.titles(&format!("?since={since}")).await, ["two", "new"]);
    let urgent_or_low = alice.titles("?priority=critical&priority=low").await;
    let all = alice.feed("").await.body["notifications"].as_array().unwrap().clone();
    let expected: Vec<_> = all
        .iter()
        .filter(|one| one["priority"] == "urgent" || one["priority"] == "low")
        .map(|one| one["title"].as_str().unwrap())
        .collect();
    assert_eq!(urgent_or_low, expected);
    assert!(!expected.is_empty() && expected.len() < all.len());
    let middle = all[all.len() / 2]["created_at"].as_str().unwrap();
    let until: Vec<_> = alice.titles(&format!("?until={middle}")).await;
    let expected: Vec<_> = all
        .iter()
        .filter(|one| one["created_at"].as_str().unwrap() <= middle)
        .map(|one| one["title"].as_str().unwrap())
        .collect();
    assert_eq!(until, expected, "inclusive");
    let total = alice.feed(&format!("?until={middle}&limit=1")).await.body["total"].clone();
    assert_eq!(total, expected.len());
    let first = alice.feed("?cursor=&limit=1").await.body;
    assert_eq!((&first["has_more"], &first["notifications"][0]["title"]), (&json!(true), &all[0]["title"]));
    let narrow = alice.feed(&format!("?since={since}&status=unread&app_id=two&limit=1")).await.body;
    assert_eq!((&narrow["total"], &narrow["unread_count"]), (&json!(1), &json!(2)), "the badge knows no filter");
}

async fn a_cursor_that_the_hub_did_not_make_is_refused(backend: Backend) {
    use base64::Engine as _;
    let hub = TestHub::start(backend).await;
    let alice = hub.app("a").await.user("alice").await;
    for made_up in
        ["1:1:-210866889600000:00000000-0000-0000-0000-000000000000", "1:9:0:00000000-0000-0000-0000-000000000000"]
    {
        let cursor = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(made_up);
        let answer = alice.ask("GET", &format!("/users/alice/notifications?cursor={cursor}"), None).await;
        assert_eq!((answer.status, &answer.body["details"][0]["field"]), (400, &json!("cursor")), "{made_up}");
    }
}

async fn a_cursor_stays_exact_while_notifications_arrive(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let many: Vec<_> = (0..95)
        .map(|n| {
            let mut body = App::notification("alice", n);
            body["priority"] = json!(["low", "normal", "high", "urgent"][n % 4]);
            body
        })
        .collect();
    read(app.request("POST", "/notifications/batch").json(&json!({"notifications": many}))).await;
    let alice = app.user("alice").await;
    let whole_number = alice.titles("?limit=100").await;
    assert_eq!(whole_number.len(), 95);
    let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = alice.feed(&format!("?limit=10{cursor}")).await.body;
        seen.extend(
            page["notifications"].as_array().unwrap().iter().map(|one| one["title"].as_str().unwrap().to_owned()),
        );
        pages += 1;
        // Newer ones: some sort before the cursor, some into later pages.
        make(&app, "newer", ["urgent", "low"][pages % 2]).await;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let old: Vec<_> = seen.iter().filter(|title| *title != "newer").cloned().collect();
    assert_eq!(old, whole_number, "each once and in order");
    for query in ["?since=2020-01-01T00:00:00Z&limit=10", "?status=unread&status=read&limit=10"] {
        let first = alice.feed(query).await.body["next_cursor"].as_str().unwrap().to_owned();
        let second = alice.titles(&format!("{query}&cursor={first}")).await;
        assert_eq!(second, alice.titles(&format!("{query}&offset=10")).await);
    }
}

async fn everybody_sees_what_is_theirs(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (one, two, core) = (hub.app("one").await, hub.app("two").await, hub.platform_app("core").await);
    one.notify(&App::notification("alice", "one's")).await;
    two.notify(&App::notification("alice", "two's")).await;
    one.notify(&App::notification("bob", "bob's")).await;
    assert_eq!(core.user("alice").await.titles("").await, ["two's", "one's"]);
    assert_eq!(core.inbox("alice").titles("").await, ["two's", "one's"]);
    for caller in [one.user("alice").await, one.inbox("alice")] {
        assert_eq!(caller.titles("").await, ["one's"]);
        assert_eq!(caller.titles("?app_id=two").await, Vec::<String>::new());
        assert_eq!(caller.unread().await, 1);
        assert_eq!(caller.counts().await["by_app"], json!({"one": 1}));
    }
    let bob = one.user("bob").await;
    for path in ["/users/alice/notifications", "/users/alice/notifications/counts"] {
        let answer = bob.ask("GET", path, None).await;
        assert_eq!((answer.status, answer.code()), (403, "forbidden"));
    }
    assert_eq!(one.inbox("nobody").titles("").await, Vec::<String>::new());
}

async fn counts_are_never_stale_to_the_writer(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (one, two, core) = (hub.app("one").await, hub.app("two").await, hub.platform_app("core").await);
    // A second node with the same store, and a cache of its own.
    let alice = core.user("alice").await;
    let mut ids = Vec::new();
    for n in 0..6 {
        ids.push(if n % 2 == 0 { &one } else { &two }.notify(&App::notification("alice", n)).await);
        assert_eq!(alice.unread().await, n + 1);
        assert_eq!(alice.counts().await["unread"], json!(n + 1));
    }
    for (done, (id, status)) in ids.iter().zip(["read", "clicked", "dismissed", "expired", "read"]).enumerate() {
        alice.set(id, status).await;
        assert_eq!(alice.unread().await, 5 - done as u64);
    }
    let counts = alice.counts().await;
    assert_eq!(counts["by_app"], json!({"two": 1}));
    assert_eq!(counts["by_status"], json!({"unread": 1, "read": 2, "clicked": 1, "dismissed": 1, "expired": 1}));
    assert_eq!(two.inbox("alice").delete(&ids[5]).await.status, 204);
    assert_eq!((alice.unread().await, alice.counts().await["unread"].clone()), (0, json!(0)));
}

async fn a_feed_agrees_with_itself_while_it_changes(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let is_done = std::sync::atomic::AtomicBool::new(false);
    let change = async || {
        while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
            let id = app.notify(&App::notification("alice", "t")).await;
            app.inbox("alice").set(&id, "dismissed").await;
        }
    };
    let read = async || {
        let (user, inbox) = (app.user("alice").await, app.inbox("alice"));
        for n in 0..400 {
            let feed = if n % 2 == 0 { &user } else { &inbox }.feed("?status=unread&limit=100").await.body;
            let listed = feed["notifications"].as_array().unwrap().len();
            assert_eq!((&feed["total"], &feed["unread_count"]), (&json!(listed), &json!(listed)), "{n}");
        }
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    futures_util::join!(change(), change(), change(), change(), read());
}

async fn bad_parameters_are_named(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let alice = app.user("alice").await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("offset=-1", "offset"),
        ("offset=9223372036854775807", "offset"),
        ("status=gone", "status"),
        ("status=unread&status=gone", "status"),
        ("app_id=Not%20A%20Slug", "app_id"),
        ("since=noon", "since"),
        ("cursor=x", "cursor"),
        ("cursor=MTo5OTk5OTk6OTk5OTk5OTk5OTk5OTk5OTk5OTo5", "cursor"),
        ("limit=1&limit=2", "limit"),
        ("stauts=unread", "stauts"),
    ] {
        let answer = alice.ask("GET", &format!("/users/alice/notifications?{query}"), None).await;
        assert_eq!((answer.status, answer.fields()), (400, vec![field]), "{query}");
    }
    assert_eq!(alice.feed("?offset=4611686018427387903").await.body["notifications"], json!([]));
    assert_eq!(alice.ask("GET", "/users/a%20b/notifications", None).await.status, 404);
    assert_eq!(alice.ask("GET", "/users/alice/notifications/counts?x=1", None).await.fields(), ["x"]);
}

async fn a_total_is_capped(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    fill(&hub, 10_050).await;
    let page = app.inbox("alice").feed("?limit=1").await.body;
    assert_eq!((&page["total"], &page["total_is_capped"]), (&json!(10_000), &json!(true)));
    assert_eq!(page["unread_count"], 10_050, "a badge is exact");
}

/// Inserts rows directly.
async fn fill(hub: &TestHub, count: u32) {
    match hub.database.backend {
        Backend::Sqlite => {
            use sqlx::{Connection as _, Executor as _};
            let mut connection = sqlx::SqliteConnection::connect(&hub.database.url).await.unwrap();
            let numbers = format!("with recursive n(i) as (select 1 union all select i + 1 from n where i < {count})");
            for sql in [
                format!("{numbers} insert into platform_notifications (id, app_id, user_id, title, body, created_at, updated_at) select cast(printf('%016d', i) as blob), 'a', 'alice', 't' || i, 'b', i, i from n"),
                "insert into notification_state (id, notification_id, user_id, app_id, urgency, created_at, updated_at) select id, id, user_id, app_id, 1, created_at, updated_at from platform_notifications".to_owned(),
            ] {
                connection.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
            }
        }
        Backend::Postgres => {
            use sqlx_pg::{Connection as _, Executor as _};
            let mut connection = sqlx_pg::PgConnection::connect(&hub.database.owner_url).await.unwrap();
            for sql in [
                format!("insert into platform_notifications (id, app_id, user_id, title, body) select gen_random_uuid(), 'a', 'alice', 't' || i, 'b' from generate_series(1, {count}) i"),
                "insert into notification_state (id, notification_id, user_id, app_id, urgency, created_at, updated_at) select id, id, user_id, app_id, 1, created_at, updated_at from platform_notifications".to_owned(),
            ] {
                connection.execute(sql.as_str()).await.unwrap();
            }
        }
    }
}

/// Looks at the query plans instead of times: no part of a feed is sorted, and none reads rows of another status.
async fn a_feed_and_its_expiries_are_read_by_index(backend: Backend) {
    let hub = TestHub::start(backend).await;
    hub.app("a").await;
    fill(&hub, 20_000).await;
    let run = "select * from notification_state s where s.user_id = 'alice' and s.status = 'unread' \
        and (s.expires_at is null or s.expires_at > {now}) and (s.urgency, s.created_at, s.notification_id) < (1, {now}, {id}) \
        order by s.urgency desc, s.created_at desc, s.notification_id desc limit 50";
    let due = "select s.id from notification_state s where s.expires_at is not null and s.expires_at <= {now} \
        and s.status in ('unread', 'read', 'clicked') order by s.expires_at limit 1000";
    match hub.database.backend {
        Backend::Sqlite => {
            use sqlx::{Connection as _, Executor as _, Row as _};
            let mut connection = sqlx::SqliteConnection::connect(&hub.database.url).await.unwrap();
            connection.execute("analyze").await.unwrap();
            for (sql, index) in [(run, "notification_state_feed"), (due, "notification_state_due")] {
                let sql = sql.replace("{now}", "10000").replace("{id}", "x'00'");
                let rows = sqlx::query(sqlx::AssertSqlSafe(format!("explain query plan {sql}")))
                    .fetch_all(&mut connection)
                    .await
                    .unwrap();
                let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
                let plan = plan.join("\n");
                assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{plan}");
            }
        }
        Backend::Postgres => {
            use sqlx_pg::{Connection as _, Executor as _, Row as _};
            let mut connection = sqlx_pg::PgConnection::connect(&hub.database.owner_url).await.unwrap();
            connection.execute("analyze").await.unwrap();
            for (sql, index) in [(run, "notification_state_feed"), (due, "notification_state_due")] {
                let sql = sql.replace("{now}", "now()").replace("{id}", "'00000000-0000-0000-0000-000000000000'");
                let rows = sqlx_pg::query(&format!("explain {sql}")).fetch_all(&mut connection).await.unwrap();
                let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                let plan = plan.join("\n");
                assert!(plan.contains(index) && !plan.contains("Sort"), "{plan}");
            }
        }
    }
}
