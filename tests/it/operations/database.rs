//! PostgreSQL as operators have it: read-only for a while, a standby behind the same address, few connections, logins with
//! defaults of their own, poolers, an older database after a failover; and the one line that says what is wrong.

use std::{process::Command, sync::Arc, time::Duration};

use oriva_hub::store::{
    AppStore as _, Audit, EventReader as _, EventStore as _, NewApp, NewEvent, Origin, Outage, Publish, Store,
    Submission, postgres::PostgresStore,
};
use oriva_hub_actors::model::{AppId, Category, EventId, EventType, JsonObject, StreamKey, Timestamp, UserId};
use sqlx_pg::{Connection as _, Executor as _, PgConnection};

use super::readiness;
use crate::harness::{
    App, Database, HubProcess, PostgresServer, Proxy, eventually,
    process::{command, create_app},
};

/// A hub's database on a server of the test's own, reached at another address.
async fn behind(server: &PostgresServer, proxy: &Proxy) -> Database {
    let mut database = Database::on(server).await;
    database.url = format!("postgres://hub@{}/hub", proxy.addr);
    database
}

async fn status(app: &App) -> u16 {
    app.post(&App::event("alice", "x")).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_database_is_not_ready_until_it_takes_writes_again() {
    let server = PostgresServer::start().await;
    let database = Database::on(&server).await;
    let hub = HubProcess::start(&database, &[]).await;
    let app = create_app(&database, hub.addr, "a", false);
    app.publish("alice", 1).await;
    for _ in 0..2 {
        server.sql("alter system set default_transaction_read_only = on; select pg_reload_conf()").await;
        // No client has to find out.
        eventually("not ready", async || readiness(hub.addr).await == (503, "store".to_owned())).await;
        assert_eq!(status(&app).await, 503);
        assert_eq!(app.events("").await.status, 200, "what only reads is served");
        server.sql("set default_transaction_read_only = off; alter system reset default_transaction_read_only; select pg_reload_conf()").await;
        eventually("ready", async || readiness(hub.addr).await.0 == 200).await;
        assert_eq!(status(&app).await, 200);
    }
    let log = hub.log();
    assert!(log.contains("nothing can be written") && log.contains("default_transaction_read_only"), "{log}");
    assert!(log.contains("the store takes writes again"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_stays_at_a_server_that_became_a_standby() {
    let primary = PostgresServer::start().await;
    let proxy = Proxy::to(primary.port()).await;
    let database = behind(&primary, &proxy).await;
    let standby = primary.standby().await;
    let hub = HubProcess::start(&database, &[]).await;
    let app = create_app(&database, hub.addr, "a", false);
    app.publish("alice", 1).await;
    // The name leads to the standby for a moment.
    proxy.lead_to(standby.port());
    eventually("it is noticed", async || status(&app).await == 503).await;
    eventually("not ready", async || readiness(hub.addr).await.0 == 503).await;
    proxy.lead_to(primary.port());
    eventually("it writes again", async || status(&app).await == 200).await;
    eventually("ready", async || readiness(hub.addr).await.0 == 200).await;
    assert!(hub.log().contains("standby"), "{}", hub.log());
}

/// Failover to a standby that was behind: events that were answered 200 are gone, and offsets are given again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_went_back_has_another_epoch() {
    let primary = PostgresServer::start().await;
    let proxy = Proxy::to(primary.port()).await;
    let database = behind(&primary, &proxy).await;
    let standby = primary.standby().await;
    let nodes = [HubProcess::start(&database, &[]).await, HubProcess::start(&database, &[]).await];
    let app = create_app(&database, nodes[0].addr, "a", false);
    let token = app.token("alice").await;
    for n in 0..3 {
        app.publish("alice", n).await;
    }
    eventually("the standby has it", async || {
        let mut copy = standby.superuser("hub").await;
        let count: i64 =
            sqlx_pg::query_scalar("select count(*) from platform_events").fetch_one(&mut copy).await.unwrap();
        count == 3
    })
    .await;
    let mut socket = crate::harness::Socket::open(nodes[1].addr, &token).await.unwrap();
    socket.subscribe(&["**"]).await;
    let epoch = socket.welcome["epoch"].as_str().unwrap().to_owned();
    // What comes from now on does not reach it.
    standby.stop();
    for n in 3..8 {
        app.publish("alice", n).await;
    }
    eventually("it has them all", async || socket.offset().await == 8).await;
    primary.stop();
    standby.go();
    standby.promote();
    proxy.lead_to(standby.port());
    assert_eq!(socket.closed().await.0, 1001, "open sockets are told");
    eventually("the first node serves again", async || status(&app).await == 200).await;
    for node in &nodes {
        eventually("it has the new epoch", async || {
            let opened = crate::harness::Socket::open(node.addr, &token).await;
            opened.is_ok_and(|socket| socket.welcome["epoch"] != *epoch)
        })
        .await;
        let mut socket = crate::harness::Socket::open(node.addr, &token).await.unwrap();
        assert_eq!(socket.resume_in(8, &epoch).await["recovered"], false);
    }
    let log = nodes[0].log() + &nodes[1].log();
    assert!(log.contains("the database lost committed events"), "{log}");
}

/// A login with fewer connections than the settings ask for. Publishing goes on, because it has one of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_makes_do_with_fewer_connections() {
    let server = PostgresServer::start().await;
    let database = Database::on(&server).await;
    server.sql("alter role hub connection limit 4").await;
    let hub = HubProcess::start(&database, &[("ORIVA_HUB__DATABASE__MAX_CONNECTIONS", "20")]).await;
    let app = crate::harness::hub::admin_app(hub.addr, "a").await;
    let readers: Vec<_> = (0..40)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let answer = app.events("").await;
                    assert_eq!(answer.status, 200, "{}", answer.body);
                }
            })
        })
        .collect();
    for n in 0..100 {
        app.publish("alice", n).await;
    }
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(readiness(hub.addr).await.0, 200);
    let log = hub.log();
    assert_eq!(log.matches("fewer connections than database.max_connections").count(), 1, "{log}");
}

/// A DBA's defaults for a login or a database are for people. Two nodes on one stream are never in each other's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logins_defaults_change_nothing() {
    let server = PostgresServer::start().await;
    let database = Database::on(&server).await;
    server
        .sql(
            "alter role hub set default_transaction_isolation = 'serializable'; alter role hub set search_path = 'nowhere'; \
             alter role hub set synchronous_commit = off; alter role hub set row_security = off; alter role hub set jit = on; \
             alter role hub set jit_above_cost = 0; alter role hub set statement_timeout = '1s'",
        )
        .await;
    let nodes = [HubProcess::start(&database, &[]).await, HubProcess::start(&database, &[]).await];
    let app = create_app(&database, nodes[0].addr, "a", false);
    let lanes: Vec<_> = (0..16)
        .map(|lane| {
            let app = app.at(nodes[lane % 2].addr);
            tokio::spawn(async move {
                for n in 0..20 {
                    app.publish("alice", n).await;
                    app.notify(&App::notification("alice", n)).await;
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
    let events = app.events("?limit=1").await;
    assert_eq!(events.body["total"], 16 * 20 * 2);
    let store = PostgresStore::new(&database.url, 2).unwrap();
    assert_eq!(store.settings().await.unwrap(), ["on", "read committed", "public", "on", "off", "14s"]);
    store.close().await;
}

/// What means "not now" is 503, and one lock that is not had ends the whole batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_not_had_is_no_bug() {
    let server = PostgresServer::start().await;
    let database = Database::on(&server).await;
    server.sql("alter role hub set lock_timeout = '300ms'").await;
    let hub = HubProcess::start(&database, &[]).await;
    let app = create_app(&database, hub.addr, "a", false);
    app.publish("alice", 0).await;
    let mut other = PgConnection::connect(&database.owner_url).await.unwrap();
    other.execute("begin; lock table platform_events in access exclusive mode").await.unwrap();
    let publishers: Vec<_> = (0..40)
        .map(|n| {
            let app = app.clone();
            tokio::spawn(async move { app.post(&App::event("alice", n)).await })
        })
        .collect();
    for publisher in publishers {
        let answer = publisher.await.unwrap();
        assert_eq!((answer.status, answer.code()), (503, "overloaded"), "{}", answer.body);
    }
    eventually("not ready, and stays so", async || readiness(hub.addr).await == (503, "store".to_owned())).await;
    other.execute("rollback").await.unwrap();
    eventually("ready", async || readiness(hub.addr).await.0 == 200).await;
    assert_eq!(app.publish("alice", "after").await, 2);
    let log = hub.log();
    assert!(log.contains("somebody holds a lock") && !log.contains("ERROR"), "{log}");
}

struct PgBouncer {
    child: std::process::Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl PgBouncer {
    async fn start(server: &PostgresServer, mode: &str) -> Self {
        let (folder, port) = (tempfile::TempDir::new().unwrap(), crate::harness::redis::free_port());
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let file = folder.path().join("pgbouncer.ini");
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=hub\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\npool_mode = {mode}\nunix_socket_dir =\ndefault_pool_size = 20\n",
            server.port()
        );
        std::fs::write(&file, settings).unwrap();
        let mut run = crate::harness::postgres::command("/usr/sbin/pgbouncer".as_ref());
        let child =
            run.arg(&file).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        eventually("it listens", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        Self { child, port, _folder: folder }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_gives_whole_sessions_or_is_refused() {
    let server = PostgresServer::start().await;
    let mut database = Database::on(&server).await;
    let pooler = PgBouncer::start(&server, "session").await;
    database.url = format!("postgres://hub@127.0.0.1:{}/hub", pooler.port);
    {
        let hub = HubProcess::start(&database, &[]).await;
        let app = create_app(&database, hub.addr, "a", false);
        assert_eq!(app.publish("alice", 1).await, 1);
        assert_eq!(app.events("").await.body["total"], 1);
    }
    let pooler = PgBouncer::start(&server, "transaction").await;
    database.url = format!("postgres://hub@127.0.0.1:{}/hub", pooler.port);
    let said = refusal(&database, &[]);
    assert!(said.contains("pool_mode = session"), "{said}");
    // Nobody else has got the hub's role.
    let options: sqlx_pg::postgres::PgConnectOptions = database.url.parse().unwrap();
    let mut other = PgConnection::connect_with(&options.extra_float_digits(None)).await.unwrap();
    let row = other.fetch_one("select current_user::text").await.unwrap();
    assert_eq!(sqlx_pg::Row::get::<&str, _>(&row, 0), "hub");
}

/// What `serve` prints where it does not start.
fn refusal(database: &Database, env: &[(&str, &str)]) -> String {
    let mut serve = command(database, &["serve", "--bind", "127.0.0.1:0"]);
    let output = serve.envs(env.iter().copied()).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("oriva-hub: ")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    lines[0].to_owned()
}

/// Each is told in one line that names cause and cure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_does_not_start_says_why() {
    let server = PostgresServer::start().await;
    let mut database = Database::on(&server).await;
    let (hub_url, owner_url) = (database.url.clone(), database.owner_url.clone());
    let mut says = |url: &str, parts: &[&str]| {
        url.clone_into(&mut database.url);
        let said = refusal(&database, &[]);
        for part in parts {
            assert!(said.contains(part), "{url}: {said}");
        }
        assert!(
            !said.contains("run `oriva-hub migrate`") || parts.iter().any(|part| part.contains("migrate")),
            "{said}"
        );
    };
    server.sql("create role stranger login; create role guest login password 'right'; create database empty").await;
    server.require_password("guest").await;
    says(&server.url_of("guest:wrong", "hub"), &["refuses the hub's login", "password authentication failed"]);
    says(&server.url_of("hub", "hubb"), &["refuses the hub's login", "database \"hubb\" does not exist"]);
    says(&server.url_of("nobody", "hub"), &["refuses the hub's login", "role \"nobody\" does not exist"]);
    says(&server.url_of("stranger", "hub"), &["grant oriva_hub_service, oriva_hub_tenant to stranger"]);
    says(&server.url_of("hub", "empty"), &["run `oriva-hub migrate`"]);
    says("postgres://hub@127.0.0.1:1/hub", &["cannot be reached", "refused"]);
    says("postgres://hub@no-such-host.invalid/hub", &["cannot be reached", "no-such-host.invalid"]);
    let secret = "postgres://hub:s3cret/@127.0.0.1/hub";
    says(secret, &["database.url", "%2F"]);
    server.sql("alter role hub connection limit 0").await;
    says(&hub_url, &["accepts no more connections", "too many connections"]);
    server.sql("alter role hub connection limit -1").await;
    let mut owner = PgConnection::connect(&owner_url).await.unwrap();
    owner.execute("revoke all on all tables in schema public from oriva_hub_service").await.unwrap();
    says(&hub_url, &["no rights on the schema", "run `oriva-hub migrate` as the schema's owner"]);
    owner.execute("update _sqlx_migrations set version = 99 where version = 13").await.unwrap();
    database.url = owner_url;
    let output = crate::harness::process::run(&database, &["migrate"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("migration 99 of a newer version"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_utf8_is_refused() {
    let server = PostgresServer::with_encoding("SQL_ASCII").await;
    let store = PostgresStore::new(&server.url_of("postgres", "postgres"), 2).unwrap();
    let error = store.migrate().await.unwrap_err().to_string();
    assert!(error.contains("encoding is SQL_ASCII") && error.contains("UTF8"), "{error}");
}

/// Nobody answers for as long as a query may take. Who asked meanwhile does not wait twice as long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_stands_still_is_not_ready() {
    let server = PostgresServer::start().await;
    let proxy = Proxy::to(server.port()).await;
    let database = behind(&server, &proxy).await;
    let hub = HubProcess::start(&database, &[]).await;
    let app = create_app(&database, hub.addr, "a", false);
    app.publish("alice", 1).await;
    proxy.cut();
    let waiting = {
        let app = app.clone();
        tokio::spawn(async move { status(&app).await })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let second = status(&app);
    let not_ready = eventually("not ready", async || readiness(hub.addr).await.0 == 503);
    let (second, ()) = tokio::join!(second, not_ready);
    assert_eq!((waiting.await.unwrap(), second), (503, 503));
    proxy.heal();
    eventually("ready", async || readiness(hub.addr).await.0 == 200).await;
    assert_eq!(status(&app).await, 200);
}

/// The login that serves is given its roles by the migration, and one that lacks one of them is told so.
#[tokio::test]
async fn a_login_needs_both_roles() {
    let server = PostgresServer::start().await;
    server.sql("create role nodes login; create database one owner owner").await;
    let mut database = Database::on(&server).await;
    let migrate = |login: &str, to: &str| {
        let url = server.url_of(login, "one");
        command(&database, &["migrate", "--grant-to", to, "--database-url", &url]).output().unwrap()
    };
    let output = migrate("owner", "nobody");
    assert!(String::from_utf8(output.stderr).unwrap().contains("create role nobody login"));
    let output = migrate("owner", "nodes");
    assert!(output.status.success(), "{output:?}");
    let output = migrate("nodes", "nodes");
    assert!(String::from_utf8(output.stderr).unwrap().contains("does not own the schema"));
    database.url = server.url_of("nodes", "one");
    let store = database.store().await;
    store.try_writing().await.unwrap();
    store.close().await;
    server.sql("revoke oriva_hub_tenant from nodes").await;
    let output = command(&database, &["serve", "--bind", "127.0.0.1:0"]).output().unwrap();
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && why.contains("migrate --grant-to nodes"), "{why}");
}

/// What the store itself says, without a hub.
#[tokio::test]
async fn an_outage_has_a_name() {
    let server = PostgresServer::start().await;
    let database = Database::on(&server).await;
    let store = PostgresStore::new(&database.url, 2).unwrap();
    store.try_writing().await.unwrap();
    server.sql("alter role hub set default_transaction_read_only = on; select pg_terminate_backend(pid) from pg_stat_activity where usename = 'hub'").await;
    assert_eq!(store.try_writing().await.unwrap_err().outage(), Some(Outage::ReadOnly));
    server.sql("alter role hub reset default_transaction_read_only").await;
    store.try_writing().await.unwrap();
    server.stop();
    assert_eq!(store.try_writing().await.unwrap_err().outage(), Some(Outage::Unreachable));
    server.go();
    store.try_writing().await.unwrap();
    store.close().await;
    assert!(store.try_writing().await.unwrap_err().is_closed());
}

/// Its locks would be kept for as long as nobody else takes the connection.
#[tokio::test]
async fn what_nobody_waits_for_leaves_no_transaction_open() {
    let server = PostgresServer::start().await;
    let proxy = Proxy::to(server.port()).await;
    let database = behind(&server, &proxy).await;
    let store = PostgresStore::new(&database.url, 2).unwrap();
    store.try_writing().await.unwrap();
    proxy.cut();
    // `begin` is on its way.
    tokio::time::timeout(Duration::from_millis(300), store.try_writing()).await.unwrap_err();
    proxy.heal();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut superuser = server.superuser("hub").await;
    let begun =
        "select count(*) from pg_stat_activity where usename = 'hub' and query ilike '%begin%' and state <> 'idle'";
    let mut open = async || sqlx_pg::query_scalar::<_, i64>(begun).fetch_one(&mut superuser).await.unwrap();
    eventually("nothing is open", async || open().await == 0).await;
    store.try_writing().await.unwrap();
}

fn published(user: Option<&str>) -> Submission {
    let app = AppId::parse("a").unwrap();
    let event = NewEvent {
        id: EventId::generate(),
        app_id: app.clone(),
        from_platform: false,
        user_id: user.map(|user| UserId::parse(user).unwrap()),
        category: Category::User,
        event_type: EventType::from_store("changed"),
        entity_type: "thing".to_owned(),
        entity_id: "1".to_owned(),
        data: JsonObject::from_store("{}".to_owned()).unwrap(),
        timestamp: Timestamp::now(),
    };
    Submission::new(&app, Origin::hub(), Publish { event })
}

async fn store_with_app(url: &str) -> PostgresStore {
    let store = PostgresStore::new(url, 4).unwrap();
    let app = NewApp {
        id: AppId::parse("a").unwrap(),
        name: "a".to_owned(),
        icon_url: None,
        is_platform: false,
        limits: Default::default(),
    };
    store.create_app(&app, None, &Audit { actor: "test".to_owned(), ip: None }).await.unwrap();
    store
}

/// A batch of events is one statement, which raises the streams and numbers the events in the order of the streams' names.
#[tokio::test]
async fn offsets_do_not_depend_on_how_the_database_sorts() {
    let server = PostgresServer::start().await;
    let icu = "create database hub template template0 locale_provider icu icu_locale 'en-US'";
    let database = Database::made_by(&server, icu).await;
    let store = store_with_app(&database.url).await;
    // Bytes and English sort these differently.
    let users = ["b", "B", "a", "A", "a-b", "ab", "_a", "0", "Z", "z", "a:b", "a.b"];
    for round in 1..=3 {
        // The second time each user has a stream that is as long as its place in the list.
        let batch: Vec<_> = users
            .iter()
            .zip(1..)
            .flat_map(|(user, count)| std::iter::repeat_n(Some(*user), count))
            .chain([None])
            .map(published)
            .collect();
        let events = store.append(&batch).await.unwrap();
        let mut expected_app = (round - 1) * batch.len() as u64;
        for appended in &events {
            expected_app += 1;
            assert_eq!(appended.events[0].event().offsets.app, expected_app);
        }
        let mut ends = events.iter().filter_map(|appended| {
            let event = appended.events[0].event();
            Some((event.user_id.as_ref()?.to_string(), event.offsets.user?))
        });
        for (user, count) in users.iter().zip(1_u64..) {
            for offset in (round - 1) * count + 1..=round * count {
                assert_eq!(ends.next(), Some(((*user).to_owned(), offset)));
            }
            let stream = StreamKey::User(UserId::parse(user).unwrap());
            assert_eq!(store.head(&stream).await.unwrap(), round * count, "{user}");
        }
        assert_eq!(store.head(&StreamKey::Broadcast).await.unwrap(), round);
    }
    let mut owner = PgConnection::connect(&database.owner_url).await.unwrap();
    let wrong: i64 = sqlx_pg::query_scalar(
        "select count(*) from (select user_offset, row_number() over (partition by user_id order by app_offset) as place \
         from platform_events where user_id is not null) events where user_offset <> place",
    )
    .fetch_one(&mut owner)
    .await
    .unwrap();
    assert_eq!(wrong, 0, "what is stored is what was told");
}

/// A batch that is one statement commits by itself, so a connection that breaks may break behind the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_answer_is_lost_is_written_once() {
    let server = PostgresServer::start().await;
    let proxy = Proxy::to(server.port()).await;
    let database = behind(&server, &proxy).await;
    let store = store_with_app(&database.url).await;
    let stream = StreamKey::App(AppId::parse("a").unwrap());
    store.close().await;

    // The kept connection is gone when the batch is committed. On another one it is there already, or is not written for another
    // reason, which says nothing of the first.
    let observer = PostgresStore::new(&database.owner_url, 1).unwrap();
    let mut owner = PgConnection::connect(&database.owner_url).await.unwrap();
    for meanwhile in [
        "select 1",
        "update hub_meta set value = (value::bigint + 1)::text where key = 'webhook_revision'",
        "revoke insert on platform_events from oriva_hub_service",
    ] {
        // A store whose connections are not suspected, and which knows what webhooks subscribe to.
        let store = Arc::new(PostgresStore::new(&database.url, 4).unwrap());
        for _ in 0..2 {
            store.append(&[published(Some("alice"))]).await.unwrap();
        }
        let head = observer.head(&stream).await.unwrap() + 2;
        proxy.cut_answers();
        let appending = tokio::spawn({
            let store = store.clone();
            async move { store.append(&[published(Some("alice")), published(None)]).await }
        });
        eventually("it is committed", async || observer.head(&stream).await.unwrap() == head).await;
        owner.execute(meanwhile).await.unwrap();
        proxy.lead_to(server.port());
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.heal();
        let error = appending.await.unwrap().expect_err("its answer is lost");
        assert!(error.is_outcome_unknown(), "{meanwhile}: {error:?}");
        assert_eq!(observer.head(&stream).await.unwrap(), head, "it was not written again");
    }
    owner.execute("grant insert on platform_events to oriva_hub_service").await.unwrap();

    // It is gone before anything was sent.
    let store = PostgresStore::new(&database.url, 4).unwrap();
    for _ in 0..2 {
        store.append(&[published(Some("alice"))]).await.expect("written");
    }
    let head = observer.head(&stream).await.unwrap();
    proxy.lead_to(server.port());
    store.append(&[published(Some("alice"))]).await.expect("written on another connection");
    assert_eq!(observer.head(&stream).await.unwrap(), head + 1);
}
