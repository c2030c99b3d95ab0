//! The production store: PostgreSQL 14 or newer, row level security in force.
//!
//! Every connection takes on `oriva_hub_service` as soon as it is made; a request made for an app or a user runs in a
//! transaction that takes on `oriva_hub_tenant` with that tenant set (see migrations/postgres).

mod nodes;
mod queue;
mod retention;
mod values;

use std::{
    sync::{Arc, LazyLock, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use oriva_hub_actors::model::{Offset, StreamKey};
use sqlx::{
    AssertSqlSafe, Connection as _, Executor, PgConnection, PgPool, Postgres, Row, Transaction,
    migrate::{Migrate as _, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};

use super::{
    DEADLINE, Pool, Store, StoreError,
    migrations::{migration_files, migrator},
    new_epoch,
    sql::{
        dialect::{Dialect as _, SqlRow as _, SqlStore},
        events::head_query,
        statement::Statement,
    },
    webhook::Subscriptions,
};

/// Where sqlx notes what it applied.
const MIGRATIONS_TABLE: &str = "_sqlx_migrations";
pub(super) const MIGRATION_FILES: &[(&str, &str)] = migration_files!("postgres": "0001_hub", "0002_feed", "0003_webhooks", "0004_nodes", "0005_event_data_index", "0006_retention", "0007_traces", "0008_archive_exports", "0009_audit_retention", "0010_json_as_written", "0011_event_dates", "0012_checks_and_comments", "0013_webhook_payload");
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| migrator(MIGRATION_FILES));

/// How long a request waits for a free connection before it is told that the database is unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server works on one statement: less than [`DEADLINE`], so that the hub hears of the end. Without it a query
/// that nobody waits for any more goes on.
const STATEMENT: Duration = DEADLINE.saturating_sub(Duration::from_secs(1));

/// How long connections are asked before they are trusted again, after one did not answer.
const DISTRUSTED_FOR: Duration = Duration::from_secs(60);
/// What a connection that is not trusted may take to answer.
const PROOF: Duration = Duration::from_secs(2);

/// Whether connections that are given back have to prove that somebody is at the other end. One whose host is gone would
/// otherwise be waited for until the kernel gives up, and keep its room in the pool.
#[derive(Debug, Default)]
struct Trust(Mutex<Option<Instant>>);

impl Trust {
    fn lost(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    async fn restored_by(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let lost = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.is_none_or(|lost| lost.elapsed() > DISTRUSTED_FOR) {
            return Ok(true);
        }
        match tokio::time::timeout(PROOF, connection.ping()).await {
            Ok(answer) => answer.map(|()| true),
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }
}

/// All queries of a reading transaction see the database at one moment, so lists, totals and counts agree.
const BEGIN_READ: &str = "begin isolation level repeatable read, read only";

/// A query after which a transaction sees this stream's holder's rows and no others. It has two parameters and three
/// columns; `column` is one more. `None` for work of the hub itself: broadcasts belong to nobody.
fn become_tenant<'q>(holder: &'q StreamKey, column: &str) -> Option<Statement<'q>> {
    let (app, user) = match holder {
        StreamKey::App(app) => (app.as_str(), ""),
        StreamKey::User(user) => ("", user.as_str()),
        StreamKey::Broadcast => return None,
    };
    let query = format!(
        "select set_config('role', 'oriva_hub_tenant', true), set_config('oriva.app_id', $1, true), \
         set_config('oriva.user_id', $2, true){column}"
    );
    Some(Statement::new(query).bind(app).bind(user))
}

/// PostgreSQL behind the store traits.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    pool: PgPool,
    options: PgConnectOptions,
    trust: Arc<Trust>,
    /// What webhooks subscribe to, as of a revision that each writing transaction compares.
    subscriptions: Arc<RwLock<Arc<Subscriptions>>>,
}

/// Reads a URL, without connecting.
///
/// # Errors
/// Where `url` is no PostgreSQL URL.
pub fn options(url: &str) -> Result<PgConnectOptions, StoreError> {
    let options: PgConnectOptions = url.parse().map_err(StoreError::Url)?;
    Ok(options.application_name("oriva-hub"))
}

impl PostgresStore {
    /// Prepares a pool; connects when first used.
    ///
    /// # Errors
    /// Where `url` is no PostgreSQL URL.
    pub fn new(url: &str, max_connections: u32) -> Result<Self, StoreError> {
        let options = options(url)?;
        let trust = Arc::new(Trust::default());
        let trusted = trust.clone();
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_release(move |connection, _| {
                let trust = trusted.clone();
                Box::pin(async move { trust.restored_by(connection).await })
            })
            .after_connect(|connection, _| {
                Box::pin(async move {
                    let set = format!("set role oriva_hub_service; set statement_timeout = {}", STATEMENT.as_millis());
                    connection.execute(AssertSqlSafe(set)).await.map(drop)
                })
            })
            .connect_lazy_with(options.clone());
        Ok(Self { pool, options, trust, subscriptions: Arc::default() })
    }

    async fn set_meta(connection: &mut PgConnection, key: &str, value: &str) -> Result<(), sqlx::Error> {
        sqlx::query(
            "insert into hub_meta (key, value) values ($1, $2) \
             on conflict (key) do update set value = excluded.value",
        )
        .bind(key)
        .bind(value)
        .execute(connection)
        .await
        .map(drop)
    }
}

#[async_trait]
impl SqlStore for PostgresStore {
    type Db = Postgres;

    async fn begin_read(&self, tenant: &StreamKey) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut transaction = self.pool.begin_with(BEGIN_READ).await?;
        if let Some(become_tenant) = become_tenant(tenant, "") {
            Postgres::execute(&mut transaction, become_tenant).await?;
        }
        Ok(transaction)
    }

    async fn begin_read_at(
        &self,
        tenant: &StreamKey,
        stream: &StreamKey,
    ) -> Result<(Transaction<'static, Postgres>, Offset), StoreError> {
        let mut transaction = self.pool.begin_with(BEGIN_READ).await?;
        // The head is read by the same statement: the statement still runs as the hub, and costs no round trip more.
        let head = ", (select last_offset from streams where kind = $3 and key = $4)";
        let query = become_tenant(tenant, head).map(|query| query.bind(stream.kind().as_str()).bind(stream.name()));
        let row = Postgres::fetch_optional(&mut transaction, query.unwrap_or_else(|| head_query(stream))).await?;
        let head = row.map_or(Ok(None), |row| row.big_or_null(row.len() - 1))?;
        Ok((transaction, head.unwrap_or(0)))
    }

    fn subscriptions(&self) -> &RwLock<Arc<Subscriptions>> {
        &self.subscriptions
    }

    async fn begin_write(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        Ok(self.pool.begin().await?)
    }

    async fn query_all(&self, tenant: &StreamKey, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        if *tenant == StreamKey::Broadcast {
            return Postgres::fetch_all(&mut *self.pool.acquire().await?, statement).await;
        }
        let mut transaction = self.begin_read(tenant).await?;
        let rows = Postgres::fetch_all(&mut transaction, statement).await?;
        transaction.commit().await?;
        Ok(rows)
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        // As the login role itself, which owns the schema.
        let owner = PgPoolOptions::new().max_connections(1).connect_with(self.options.clone()).await?;
        let before = {
            let mut connection = owner.acquire().await?;
            connection.ensure_migrations_table(MIGRATIONS_TABLE).await?;
            connection.list_applied_migrations(MIGRATIONS_TABLE).await?.len()
        };
        MIGRATIONS.run(&owner).await?;
        let names = MIGRATIONS.iter().skip(before).map(|migration| migration.description.to_string()).collect();
        owner.execute("grant select on _sqlx_migrations to oriva_hub_service").await?;
        sqlx::query(
            "insert into hub_meta (key, value) values ('epoch', $1), ('identity_revision', '1') on conflict do nothing",
        )
        .bind(new_epoch())
        .execute(&owner)
        .await?;
        owner.close().await;
        Ok(names)
    }

    async fn check_schema(&self) -> Result<(), StoreError> {
        let applied: Result<i64, sqlx::Error> =
            sqlx::query_scalar("select count(*) from _sqlx_migrations where success").fetch_one(&self.pool).await;
        match applied.map_err(StoreError::from) {
            Ok(count) if count >= 0 && count.unsigned_abs() as usize >= MIGRATIONS.iter().count() => Ok(()),
            Err(error @ StoreError::Unavailable(_)) if !role_is_missing(&error) => Err(error),
            Ok(_) | Err(_) => Err(StoreError::Outdated),
        }
    }

    async fn epoch(&self) -> Result<Arc<str>, StoreError> {
        let row = sqlx::query("select value from hub_meta where key = 'epoch'").fetch_one(&self.pool).await?;
        Ok(row.try_get::<String, _>(0)?.into())
    }

    async fn renew_epoch(&self) -> Result<Arc<str>, StoreError> {
        let epoch = new_epoch();
        Self::set_meta(&mut *self.pool.acquire().await?, "epoch", &epoch).await?;
        Ok(epoch.into())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("select 1").execute(&self.pool).await?;
        Ok(())
    }

    fn pool(&self) -> Pool {
        Pool { size: self.pool.size(), idle: u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX) }
    }

    fn suspect_connections(&self) {
        self.trust.lost();
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

/// Whether a connection failed because the migrations never made the hub's roles (`invalid_parameter_value` or
/// `undefined_object`).
fn role_is_missing(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(sqlx::Error::Database(cause))
        if matches!(cause.code().as_deref(), Some("22023" | "42704")))
}
