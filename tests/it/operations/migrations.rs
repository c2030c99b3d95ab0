//! Migrations as the databases that people have allow them: an owner who is no superuser, roles that somebody else made, several
//! at once, versions from Debian's to the newest.

use oriva_hub::store::{Store, StoreError, postgres::PostgresStore};
use sqlx_pg::{Connection as _, Executor as _, PgConnection};

use crate::harness::{App, Backend, Database, HubProcess, PostgresServer, Socket, eventually, process};

async fn migrate(url: &str) -> Result<Vec<String>, StoreError> {
    let store = PostgresStore::new(url, 2).unwrap();
    let applied = store.migrate().await;
    store.close().await;
    applied
}

/// A hub on this database publishes and is ready.
async fn serves(url: &str) {
    let mut database = Database::new(Backend::Sqlite).await;
    (database.backend, database.url) = (Backend::Postgres, url.to_owned());
    let hub = HubProcess::start(&database, &[]).await;
    let app = process::create_app(&database, hub.addr, "a", false);
    assert_eq!(app.publish("alice", 1).await, 1);
    let id = app.notify(&App::notification("alice", "Lunch?")).await;
    assert_eq!(app.inbox("alice").feed("").await.body["notifications"][0]["notification_id"], id);
}

/// An owner who may make roles; a second database of another owner; an owner who may make nothing, for whom a DBA made
/// the roles.
async fn owners_of_every_kind(server: &PostgresServer, since_16: bool) {
    server.sql("create role second login createdb createrole; create database one owner owner; create database two owner second").await;
    assert_eq!(migrate(&server.url_of("owner", "one")).await.unwrap()[0], "hub");
    let mut owner = PgConnection::connect(&server.url_of("owner", "one")).await.unwrap();
    owner.execute("grant oriva_hub_service, oriva_hub_tenant to hub").await.unwrap();
    serves(&server.url_of("hub", "one")).await;

    let migrated = migrate(&server.url_of("second", "two")).await;
    if since_16 {
        // Only who made a role, or a superuser, may grant it.
        let error = migrated.unwrap_err().to_string();
        assert!(error.contains("grant oriva_hub_service, oriva_hub_tenant to second"), "{error}");
        owner.execute("grant oriva_hub_service, oriva_hub_tenant to second").await.unwrap();
        migrate(&server.url_of("second", "two")).await.unwrap();
    } else {
        migrated.unwrap();
    }
    serves(&server.url_of("hub", "two")).await;
}

async fn an_owner_who_may_make_nothing(server: &PostgresServer) {
    server.sql("create role modest login; create database three owner modest").await;
    let error = migrate(&server.url_of("modest", "three")).await.unwrap_err().to_string();
    assert!(error.contains("create role oriva_hub_service nologin noinherit"), "{error}");
    server
        .sql(
            "create role oriva_hub_service nologin noinherit; create role oriva_hub_tenant nologin noinherit; \
             grant oriva_hub_service, oriva_hub_tenant to modest; grant oriva_hub_service, oriva_hub_tenant to hub",
        )
        .await;
    migrate(&server.url_of("modest", "three")).await.unwrap();
    assert_eq!(migrate(&server.url_of("modest", "three")).await.unwrap(), Vec::<String>::new());
    serves(&server.url_of("hub", "three")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_on_debians_postgresql() {
    owners_of_every_kind(&PostgresServer::start().await, false).await;
    an_owner_who_may_make_nothing(&PostgresServer::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_on_the_newest_postgresql() {
    owners_of_every_kind(&PostgresServer::newest().await, true).await;
    an_owner_who_may_make_nothing(&PostgresServer::newest().await).await;
}

/// Into one database, and into several of one server, which share their roles.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_may_migrate_at_once() {
    for server in [PostgresServer::start().await, PostgresServer::newest().await] {
        let databases = ["one", "two", "three"];
        for name in databases {
            server.sql(&format!("create database {name} owner owner")).await;
        }
        let all = databases.iter().flat_map(|name| [name; 4]).map(|name| {
            let url = server.url_of("owner", name);
            tokio::spawn(async move { migrate(&url).await })
        });
        let mut applied = 0;
        for one in all.collect::<Vec<_>>() {
            applied += usize::from(!one.await.unwrap().unwrap().is_empty());
        }
        assert_eq!(applied, databases.len(), "each database once");
    }
}

/// Beside nodes that write. All tables are locked before any work, and whoever has one that the migration waits for goes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_and_a_transaction_do_not_wait_for_each_other() {
    let server = PostgresServer::start().await;
    server.sql("create database one owner owner").await;
    let url = server.url_of("owner", "one");
    migrate(&url).await.unwrap();
    let mut owner = PgConnection::connect(&url).await.unwrap();
    owner
        .execute("alter table app_webhooks drop column payload; delete from _sqlx_migrations where version = 13")
        .await
        .unwrap();
    owner.execute("begin; lock table platform_notifications in row exclusive mode").await.unwrap();
    let migrating = {
        let url = url.clone();
        tokio::spawn(async move { migrate(&url).await })
    };
    let mut observer = server.superuser("one").await;
    let waiting = "select count(*) from pg_locks where not granted and relation = 'platform_notifications'::regclass";
    eventually("it waits", async || {
        sqlx_pg::query_scalar::<_, i64>(waiting).fetch_one(&mut observer).await.unwrap() > 0
    })
    .await;
    // It has this one already.
    owner.execute("lock table streams in row exclusive mode").await.unwrap();
    owner.execute("commit").await.unwrap();
    assert_eq!(migrating.await.unwrap().unwrap(), ["webhook payload"]);
}

/// `migrate --new-epoch` beside nodes that run. They must not go on with what they remember.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_node_notices_a_new_epoch() {
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let mut database = Database::new(backend).await;
        let hub = HubProcess::start(&database, &[]).await;
        let app = process::create_app(&database, hub.addr, "a", false);
        let mut socket = app.connect("alice").await;
        socket.subscribe(&["**"]).await;
        let token = app.token("alice").await;
        let epoch = socket.welcome["epoch"].as_str().unwrap().to_owned();
        app.publish("alice", 1).await;
        assert_eq!(socket.offset().await, 1);
        let url = std::mem::replace(&mut database.url, database.owner_url.clone());
        assert!(process::run(&database, &["migrate", "--new-epoch"]).status.success());
        database.url = url;
        assert_eq!(socket.closed().await.0, 1001);
        eventually("it serves under the new epoch", async || {
            Socket::open(hub.addr, &token).await.is_ok_and(|socket| socket.welcome["epoch"] != *epoch)
        })
        .await;
        let mut socket = app.connect("alice").await;
        let resumed = socket.resume_in(1, &epoch).await;
        assert_eq!(resumed["recovered"], false);
        assert_eq!(app.publish("alice", 2).await, 2);
        assert_eq!(socket.offset().await, 2);
    }
}
