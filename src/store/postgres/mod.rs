//! The production store: PostgreSQL 14 or newer, row level security in force.
//!
//! Every connection takes on `oriva_hub_service` as soon as it is made; a request made for an app or a user runs in a
//! transaction that takes on `oriva_hub_tenant` with that tenant set (see migrations/postgres).
//!
//! It uses sqlx 0.8: 0.9.0 leaves Nagle's algorithm on, which makes every larger batch wait 40 ms over TLS (its issue 4335).

mod append;
mod arguments;
mod errors;
mod last_sent;
mod migrate;
mod nodes;
mod pool;
mod queue;
mod retention;
mod session;
mod values;

use std::{
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use oriva_hub_actors::model::{EventId, Offset, StreamKey};
use sqlx_pg::{
    Connection as _, PgConnection, Postgres,
    postgres::{PgConnectOptions, PgRow},
};

use last_sent::LastSent;
#[cfg(test)]
pub(super) use migrate::MIGRATION_FILES;
pub(super) use pool::Transaction;
use pool::{ACQUIRE, Connections};
pub use session::options;

use super::{
    Outage, Pool, Store, StoreError, StoreFacts,
    batch::{Decided, Insertion, Written},
    new_epoch,
    sql::{
        dialect::{Dialect as _, SqlRow as _, SqlStore},
        events::head_query,
        statement::Statement,
    },
    webhook::Subscriptions,
};

/// All queries of a reading transaction see the database at one moment, so lists, totals and counts agree.
const BEGIN_READ: &str = "begin isolation level repeatable read, read only";

/// Version, time, whether it syncs, whether the login overrides row level security, and the connections that are free for it,
/// those that a hub has already counted as free. (`backend_type` of other logins' sessions is hidden from this one.)
const FACTS: &str = "select current_setting('server_version'), clock_timestamp(), current_setting('fsync') = 'on', \
    login.rolsuper or login.rolbypassrls or exists (select from pg_tables where tableowner = session_user \
    and schemaname = current_schema()), \
    greatest(least(current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int \
    - count(*) filter (where activity.datid is not null and not activity.usename = session_user), \
    case when login.rolconnlimit < 0 then 1000000 else login.rolconnlimit end), 0)::int \
    from pg_roles login, pg_stat_activity activity where login.rolname = session_user \
    group by login.rolsuper, login.rolbypassrls, login.rolconnlimit";

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
    options: PgConnectOptions,
    /// For everything but appending.
    connections: Connections,
    /// For appending alone: however busy the others are, events are written.
    appending: Connections,
    /// What webhooks subscribe to, as of a revision that each writing transaction compares.
    subscriptions: Arc<RwLock<Arc<Subscriptions>>>,
    last_sent: Arc<LastSent>,
}

impl PostgresStore {
    /// Prepares connections; connects when first used. One of `max_connections` is for appending; there is at least one
    /// besides.
    ///
    /// # Errors
    /// Where `url` cannot be used.
    pub fn new(url: &str, max_connections: u32) -> Result<Self, StoreError> {
        let options = options(url)?;
        let others = max_connections.saturating_sub(1).max(1) as usize;
        let last_sent = Arc::<LastSent>::default();
        Ok(Self {
            connections: Connections::new(options.clone(), others, false, last_sent.clone())?,
            appending: Connections::new(options.clone(), 1, true, last_sent.clone())?,
            options,
            subscriptions: Arc::default(),
            last_sent,
        })
    }

    /// For tests: what a connection has set for itself: `synchronous_commit`, the isolation, `search_path`, `row_security`, `jit` and
    /// `statement_timeout`.
    ///
    /// # Errors
    /// Where the database cannot be asked.
    #[cfg(feature = "testing")]
    pub async fn settings(&self) -> Result<Vec<String>, StoreError> {
        let names = [
            "synchronous_commit",
            "default_transaction_isolation",
            "search_path",
            "row_security",
            "jit",
            "statement_timeout",
        ];
        let query = names.map(|name| format!("current_setting('{name}')")).join(", ");
        let row = self.query_one(Statement::new(format!("select array[{query}]"))).await?;
        row.texts(0)
    }

    /// Does something on the connection for appending. Where the server allows no more, one of the others makes room.
    async fn appending<T, F>(&self, mut act: impl FnMut() -> F + Send) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let until = Instant::now() + ACQUIRE;
        loop {
            match act().await {
                Err(StoreError::Unavailable(Outage::TooManyConnections | Outage::NoSession, _))
                    if Instant::now() < until =>
                {
                    self.connections.close_idle();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                done => return done,
            }
        }
    }

    /// Runs one statement of the hub itself, which may be repeated. Returns its rows.
    async fn run(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        self.connections.fetch_all(statement).await
    }
}

#[async_trait]
impl SqlStore for PostgresStore {
    type Db = Postgres;

    const APPENDS_AT_ONCE: bool = true;

    async fn begin_read(&self, tenant: &StreamKey) -> Result<Transaction, StoreError> {
        let mut transaction = self.connections.begin(BEGIN_READ).await?;
        if let Some(become_tenant) = become_tenant(tenant, "") {
            Postgres::execute(&mut transaction, become_tenant).await?;
        }
        Ok(transaction)
    }

    async fn begin_read_at(&self, tenant: &StreamKey, stream: &StreamKey) -> Result<(Transaction, Offset), StoreError> {
        let mut transaction = self.connections.begin(BEGIN_READ).await?;
        // The head is read by the same statement: the statement still runs as the hub, and costs no round trip more.
        let head = ", (select last_offset from streams where kind = $3 and key = $4)";
        let query = become_tenant(tenant, head).map(|query| query.bind(stream.kind().as_str()).bind(stream.name()));
        let row = Postgres::fetch_optional(&mut transaction, query.unwrap_or_else(|| head_query(stream))).await?;
        let head = row.map_or(Ok(None), |row| row.big_or_null(sqlx_pg::Row::len(&row) - 1))?;
        Ok((transaction, head.unwrap_or(0)))
    }

    async fn begin_write(&self) -> Result<Transaction, StoreError> {
        self.connections.begin("begin").await
    }

    async fn begin_append(&self) -> Result<Transaction, StoreError> {
        self.appending(|| self.appending.begin("begin")).await
    }

    async fn append_at_once<'a>(
        &self,
        decided: Decided<'a>,
        insertions: &[Insertion<'a>],
    ) -> Result<Option<Written<'a>>, StoreError> {
        self.append_at_once(decided, insertions).await
    }

    async fn append_events<'a>(
        &self,
        connection: &mut PgConnection,
        decided: Decided<'a>,
    ) -> Result<Written<'a>, StoreError> {
        self.append_events(connection, decided).await
    }

    fn appended(&self, last: EventId) {
        self.last_sent.set(last);
    }

    async fn query_all(&self, tenant: &StreamKey, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        if *tenant == StreamKey::Broadcast {
            return self.run(statement).await;
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
        migrate::migrate(&self.options).await
    }

    async fn grant_to(&self, login: &str) -> Result<(), StoreError> {
        migrate::grant_to(&self.options, login).await
    }

    async fn check_schema(&self) -> Result<(), StoreError> {
        session::refuse_transaction_pooling(&self.options).await?;
        migrate::check_schema(&mut *self.connections.get().await?).await
    }

    async fn epoch(&self) -> Result<Arc<str>, StoreError> {
        let row = self.query_one(Statement::new("select value from hub_meta where key = 'epoch'")).await?;
        Ok(row.text(0)?.into())
    }

    async fn renew_epoch(&self, expected: Option<&str>) -> Result<Arc<str>, StoreError> {
        let renew = Statement::new(
            "update hub_meta set value = case when value = coalesce($2, value) then $1 else value end \
             where key = 'epoch' returning value",
        );
        // On a connection of its own: who keeps one finds that the store went back, until this is done.
        let (mut connection, _) = session::open(&self.options).await?;
        let row = Postgres::fetch_one(&mut connection, renew.bind(new_epoch()).bind(expected)).await?;
        let _ = connection.close().await;
        self.last_sent.forget();
        Ok(row.text(0)?.into())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.run(Statement::new("select 1")).await.map(drop)
    }

    async fn try_writing(&self) -> Result<(), StoreError> {
        let mut transaction = self.begin_append().await?;
        // The locks that appending takes, so that a table which somebody else has locked counts.
        let lock = "lock table platform_events, streams, notification_state, webhook_deliveries in row exclusive mode";
        Postgres::execute(&mut transaction, Statement::new(lock)).await?;
        let query = Statement::new("update hub_meta set value = value where key = 'epoch'");
        Postgres::execute(&mut transaction, query).await?;
        transaction.commit().await
    }

    async fn facts(&self, connections: u32) -> Result<StoreFacts, StoreError> {
        let row = self.query_one(Statement::new(FACTS)).await?;
        let login = self.options.get_username();
        let mut concerns = Vec::new();
        if !row.flag(2)? {
            concerns.push("fsync is off: a power cut loses what was acknowledged: turn it on".to_owned());
        }
        if row.flag(3)? {
            concerns
                .push(format!("the login {login} overrides row level security: let the hub use one that owns nothing"));
        }
        let free = row.int(4)?;
        if free < connections {
            concerns.push(format!(
                "{free} connections are free, and a hub wants {connections}: raise max_connections or the login's limit, or \
                 lower database.max_connections"
            ));
        }
        Ok(StoreFacts { server: format!("PostgreSQL {}", row.text(0)?), now: Some(row.moment(1)?), concerns })
    }

    fn pool(&self) -> Pool {
        let ((size, idle), (more, more_idle)) = (self.connections.count(), self.appending.count());
        Pool { size: size + more, idle: idle + more_idle }
    }

    fn suspect_connections(&self) {
        self.connections.suspect();
        self.appending.suspect();
    }

    async fn close(&self) {
        self.connections.close().await;
        self.appending.close().await;
    }
}
