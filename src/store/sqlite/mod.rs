//! The embedded store: one SQLite file, nothing else to run.
//!
//! Write-ahead log with `synchronous = full`: a commit is on the disk before it is answered, so an acknowledged event
//! survives a crash of the process and a power cut alike (`normal` would lose the last commits in the latter). One
//! connection writes; its commits are shared by the batches that form while the one before is under way.

mod append;
mod errors;
mod files;
mod nodes;
mod queue;
mod retention;
mod values;

use std::{
    borrow::Cow,
    path::Path,
    str::FromStr,
    sync::{Arc, LazyLock, RwLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use oriva_hub_actors::model::{Offset, StreamKey};
use sqlx::{
    Connection as _, Row, SqlSafeStr as _, Sqlite, SqliteConnection, SqlitePool, Transaction,
    migrate::{Migrate as _, Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};

use self::files::Files;
use super::{
    DEADLINE, Pool, Store, StoreError, StoreFacts,
    batch::{Decided, Written},
    migrations::{migration_files, version_and_description},
    new_epoch,
    sql::{
        dialect::{Dialect as _, SqlRow as _, SqlStore},
        events::head_query,
        statement::Statement,
    },
    webhook::Subscriptions,
};

/// The table in which sqlx records applied migrations.
const MIGRATIONS_TABLE: &str = "_sqlx_migrations";
pub(super) const MIGRATION_FILES: &[(&str, &str)] = migration_files!("sqlite": "0001_hub", "0002_feed", "0003_webhooks", "0004_retention", "0005_traces", "0006_archive_exports", "0007_audit_retention", "0008_event_dates", "0009_webhook_payload");
static MIGRATIONS: LazyLock<Migrator> =
    LazyLock::new(|| Migrator::with_migrations(MIGRATION_FILES.iter().map(migration).collect()));

fn migration((name, text): &(&'static str, &'static str)) -> Migration {
    let (version, description) = version_and_description(name);
    Migration::new(version, Cow::Owned(description), MigrationType::Simple, text.into_sql_str(), false)
}

/// How long a write waits for another process's write, for example a command's beside a running hub.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Steps of SQLite's virtual machine between two looks at the clock: some 0.1 ms.
const PROGRESS_STEPS: i32 = 10_000;
/// Page cache of the writing connection, in KiB.
const WRITER_CACHE_KIB: u32 = 16 * 1024;
/// Pages of 4 KiB in the log before a checkpoint copies them into the file.
const CHECKPOINT_PAGES: u32 = 4000;
/// The log is cut back to this many bytes after a checkpoint: a long reader lets it grow.
const LOG_BYTES: u32 = 64 * 1024 * 1024;

/// SQLite behind the store traits.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    files: Arc<Files>,
    /// Subscriptions of webhooks, with a revision that each writing transaction compares.
    subscriptions: Arc<RwLock<Arc<Subscriptions>>>,
}

/// Creates a missing file, and its folder, with access for its owner only. SQLite gives the files beside it the same access.
fn make_private(file: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let cannot = |what: &str, path: &Path, error: std::io::Error| {
        Err(StoreError::Setup(format!("cannot create the {what} {}: {error}", path.display())))
    };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder
        && let Err(error) = std::fs::create_dir_all(folder)
    {
        return cannot("folder", folder, error);
    }
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => cannot("file", file, error),
        _ => Ok(()),
    }
}

/// Whether a connection that is given back is in no transaction. One whose rollback failed, as on a full disk, would refuse
/// to begin another one for ever, so it is replaced.
async fn is_idle(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if connection.is_in_transaction() {
        // The rollback may be under way; this comes after it.
        connection.ping().await?;
    }
    Ok(!connection.is_in_transaction())
}

/// Ends what a connection reads after [`DEADLINE`] from now. Without it a query that nobody waits for any more goes on.
async fn limit_reads(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let end = Instant::now() + DEADLINE;
    connection.lock_handle().await?.set_progress_handler(PROGRESS_STEPS, move || Instant::now() < end);
    Ok(())
}

impl SqliteStore {
    /// Opens the file. Creates it and its folder if they are missing.
    ///
    /// # Errors
    /// Where `url` is not an SQLite URL, or the file cannot be opened.
    pub async fn open(url: &str, max_connections: u32) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        make_private(options.get_filename())?;
        let files = Arc::new(Files::of(options.get_filename()));
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .idle_timeout(None)
                .max_lifetime(None)
        };
        // A batch writes a page for each index and user, and the batch before wrote most of the same pages. Rollback
        // data stays in memory, because a temporary file costs more than the batch.
        let writing = options
            .clone()
            .pragma("cache_size", format!("-{WRITER_CACHE_KIB}"))
            .pragma("temp_store", "memory")
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
            .pragma("journal_size_limit", LOG_BYTES.to_string());
        let opened = files.clone();
        let writer = pool(1)
            .after_connect(move |_, _| {
                opened.reset_log();
                Box::pin(async { Ok(()) })
            })
            .after_release(|connection, _| Box::pin(is_idle(connection)))
            .connect_with(writing)
            .await?;
        let readers = pool(max_connections)
            .after_connect(|connection, _| Box::pin(limit_reads(connection)))
            .before_acquire(|connection, _| Box::pin(async move { limit_reads(connection).await.map(|()| true) }))
            .connect_lazy_with(options.pragma("query_only", "on"));
        Ok(Self { writer, readers, files, subscriptions: Arc::default() })
    }

    /// A transaction that takes the write lock when it begins. If it took the lock later, another write could have come
    /// first, and it would fail.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.files.check()?;
        Ok(self.writer.begin_with("begin immediate").await?)
    }

    async fn meta(&self, key: &str) -> Result<String, StoreError> {
        let row = sqlx::query("select value from hub_meta where key = ?1").bind(key).fetch_one(&self.readers).await?;
        Ok(row.try_get(0)?)
    }
}

#[async_trait]
impl SqlStore for SqliteStore {
    type Db = Sqlite;

    // SQLite has no roles: what a caller may see is up to the queries alone.
    async fn begin_read(&self, _: &StreamKey) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.readers.begin().await?)
    }

    async fn begin_read_at(
        &self,
        tenant: &StreamKey,
        stream: &StreamKey,
    ) -> Result<(Transaction<'static, Sqlite>, Offset), StoreError> {
        let mut transaction = self.begin_read(tenant).await?;
        let row = Sqlite::fetch_optional(&mut transaction, head_query(stream)).await?;
        Ok((transaction, row.map_or(Ok(0), |row| row.big(0))?))
    }

    async fn append_events<'a>(
        &self,
        connection: &mut SqliteConnection,
        decided: Decided<'a>,
    ) -> Result<Written<'a>, StoreError> {
        self.append_events(connection, decided).await
    }

    async fn begin_write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.begin().await
    }

    async fn query_all(&self, _: &StreamKey, statement: Statement<'_>) -> Result<Vec<SqliteRow>, StoreError> {
        Sqlite::fetch_all(&mut *self.readers.acquire().await?, statement).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        let before = {
            let mut connection = self.writer.acquire().await?;
            connection.ensure_migrations_table(MIGRATIONS_TABLE).await?;
            connection.list_applied_migrations(MIGRATIONS_TABLE).await?.len()
        };
        MIGRATIONS.run(&self.writer).await?;
        let names = MIGRATIONS.iter().skip(before).map(|migration| migration.description.to_string()).collect();
        sqlx::query(
            "insert into hub_meta (key, value) values ('epoch', ?1), ('identity_revision', '1') on conflict do nothing",
        )
        .bind(new_epoch())
        .execute(&self.writer)
        .await?;
        Ok(names)
    }

    async fn grant_to(&self, _login: &str) -> Result<(), StoreError> {
        Err(StoreError::Setup("an embedded store has no logins: leave --grant-to out".to_owned()))
    }

    async fn check_schema(&self) -> Result<(), StoreError> {
        let query = "select count(*) from _sqlx_migrations where success";
        let applied: Result<i64, sqlx::Error> = sqlx::query_scalar(query).fetch_one(&self.readers).await;
        match applied {
            Ok(count) if count.unsigned_abs() as usize >= MIGRATIONS.iter().count() => Ok(()),
            Ok(_) => Err(StoreError::Outdated),
            // There is no such table.
            Err(sqlx::Error::Database(cause)) if cause.code().as_deref() == Some("1") => Err(StoreError::Outdated),
            Err(error) => Err(error.into()),
        }
    }

    async fn epoch(&self) -> Result<Arc<str>, StoreError> {
        Ok(self.meta("epoch").await?.into())
    }

    async fn renew_epoch(&self, expected: Option<&str>) -> Result<Arc<str>, StoreError> {
        let renew = "update hub_meta set value = case when value = coalesce(?2, value) then ?1 else value end \
                     where key = 'epoch' returning value";
        let epoch: String = sqlx::query_scalar(renew).bind(new_epoch()).bind(expected).fetch_one(&self.writer).await?;
        Ok(epoch.into())
    }

    async fn try_writing(&self) -> Result<(), StoreError> {
        self.files.check_room()?;
        let mut transaction = self.begin().await?;
        sqlx::query("update hub_meta set value = value where key = 'epoch'").execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    async fn facts(&self, _: u32) -> Result<StoreFacts, StoreError> {
        let version: String = sqlx::query_scalar("select sqlite_version()").fetch_one(&self.readers).await?;
        let concerns = self.files.concerns();
        Ok(StoreFacts { server: format!("SQLite {version}"), now: None, concerns })
    }

    fn log_bytes(&self) -> Option<u64> {
        self.files.log_bytes()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.files.check()?;
        sqlx::query("select 1").execute(&self.readers).await?;
        Ok(())
    }

    fn pool(&self) -> Pool {
        let idle = self.readers.num_idle() + self.writer.num_idle();
        Pool { size: self.readers.size() + self.writer.size(), idle: u32::try_from(idle).unwrap_or(u32::MAX) }
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
