//! A database for one test: a fresh SQLite file, or a PostgreSQL database copied from a migrated template. The hub
//! connects to the latter as a login that owns nothing.

use std::sync::Arc;

use oriva_hub::store::{Store, postgres::PostgresStore, sqlite::SqliteStore};
use sqlx_pg::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::sync::OnceCell;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Sqlite,
    Postgres,
}

pub struct Database {
    pub backend: Backend,
    pub url: String,
    /// The schema's owner, for PostgreSQL.
    pub owner_url: String,
    pub folder: TempDir,
}

const TEMPLATE: &str = "oriva_hub_template";

/// `postgres://owner@host:port` of the server that `scripts/test` started.
fn server() -> String {
    std::env::var("ORIVA_TEST_POSTGRES").expect("ORIVA_TEST_POSTGRES: run the tests with ./scripts/test")
}

fn as_hub(url: &str) -> String {
    url.replacen("://owner@", "://hub@", 1)
}

/// Over TLS, as to every managed database, with an authority that the system does not know.
fn over_tls(url: &str) -> String {
    let authority =
        std::env::var("ORIVA_TEST_POSTGRES_CA").expect("ORIVA_TEST_POSTGRES_CA: run the tests with ./scripts/test");
    format!("{url}?sslmode=verify-full&sslrootcert={authority}")
}

async fn template() {
    static READY: OnceCell<()> = OnceCell::const_new();
    READY
        .get_or_init(|| async {
            let mut admin = PgConnection::connect(&format!("{}/postgres", server())).await.expect("PostgreSQL answers");
            // An earlier run on the same server may have left it.
            admin.execute(format!("drop database if exists {TEMPLATE} with (force)").as_str()).await.expect("drop");
            admin.execute(format!("create database {TEMPLATE}").as_str()).await.expect("create");
            let store = PostgresStore::new(&format!("{}/{TEMPLATE}", server()), 2).expect("url");
            store.migrate().await.expect("migrate");
            store.close().await;
            let mut owner = PgConnection::connect(&format!("{}/{TEMPLATE}", server())).await.expect("connect");
            owner.execute("grant oriva_hub_service, oriva_hub_tenant to hub").await.expect("grant");
        })
        .await;
}

impl Database {
    pub async fn new(backend: Backend) -> Self {
        let folder = TempDir::new().expect("a folder");
        match backend {
            Backend::Sqlite => {
                let url = format!("sqlite://{}/hub.db", folder.path().display());
                Self { backend, owner_url: url.clone(), url, folder }
            }
            Backend::Postgres => {
                template().await;
                let name = format!("t_{}", uuid::Uuid::now_v7().simple());
                let mut admin = PgConnection::connect(&format!("{}/postgres", server())).await.expect("connect");
                let create = format!("create database {name} template {TEMPLATE}");
                admin.execute(create.as_str()).await.expect("create database");
                let owner_url = format!("{}/{name}", server());
                Self { backend, url: over_tls(&as_hub(&owner_url)), owner_url, folder }
            }
        }
    }

    /// A database on a server of the test's own.
    pub async fn on(server: &super::PostgresServer) -> Self {
        Self::made_by(server, "create database hub").await
    }

    /// A database on a server of the test's own that this statement makes.
    pub async fn made_by(server: &super::PostgresServer, create: &str) -> Self {
        let url = format!("{}/hub", server.url());
        let mut admin = PgConnection::connect(&format!("{}/postgres", server.url())).await.expect("connect");
        admin.execute(create).await.expect("create database");
        let store = PostgresStore::new(&url, 2).expect("url");
        store.migrate().await.expect("migrate");
        store.close().await;
        let mut owner = PgConnection::connect(&url).await.expect("connect");
        owner.execute("grant oriva_hub_service, oriva_hub_tenant to hub").await.expect("grant");
        let folder = TempDir::new().expect("a folder");
        Self { backend: Backend::Postgres, url: as_hub(&url), owner_url: url, folder }
    }

    /// A store of the test's own, beside a hub's.
    pub async fn store(&self) -> Arc<dyn Store> {
        match self.backend {
            Backend::Sqlite => {
                let store = SqliteStore::open(&self.url, 4).await.expect("open");
                store.migrate().await.expect("migrate");
                Arc::new(store)
            }
            Backend::Postgres => Arc::new(PostgresStore::new(&self.url, 4).expect("url")),
        }
    }
}
