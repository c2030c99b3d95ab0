//! Connections to PostgreSQL, kept open.
//!
//! A server may allow fewer than the settings say. Then the hub makes do with those it has, and asks for more later.
//! Connections that may lead to a server that is gone have to prove themselves before they are used.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use deadpool::managed::{self, Metrics, Object, RecycleError, RecycleResult};
use sqlx_pg::{
    Connection as _, Executor as _, PgConnection, Postgres,
    postgres::{PgConnectOptions, PgRow},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};

use super::{session, told::LastTold};
use crate::store::{
    Outage, StoreError,
    sql::{dialect::Dialect as _, statement::Statement},
};

/// How long a request waits for a connection before it is told that the database is unavailable.
const ACQUIRE: Duration = Duration::from_secs(5);
/// A connection is replaced at this age: a server's session never gives memory back.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// A connection that was idle for this long is asked before it is used: something on the way may have forgotten it.
const IDLE: Duration = Duration::from_secs(30);
/// How long connections are asked before they are trusted again, after one did not answer.
const DISTRUSTED_FOR: Duration = Duration::from_secs(60);
/// What a connection that is not trusted may take to answer.
const PROOF: Duration = Duration::from_secs(2);
/// How long after a refusal more connections are asked for.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Makes connections, and says which are still good.
#[derive(Debug)]
struct Opener {
    options: PgConnectOptions,
    /// Refuses servers that take no writes.
    writes: bool,
    trust: Arc<Trust>,
    last_told: Arc<LastTold>,
}

/// Whether kept connections have to prove that somebody is at the other end. One whose host is gone would otherwise be
/// waited for until the kernel gives up, and keep its room in the pool.
#[derive(Debug, Default)]
struct Trust(Mutex<Option<Instant>>);

impl Trust {
    fn lost(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn holds(&self) -> bool {
        let lost = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lost.is_none_or(|lost| lost.elapsed() > DISTRUSTED_FOR)
    }
}

impl managed::Manager for Opener {
    type Type = PgConnection;
    type Error = StoreError;

    async fn create(&self) -> Result<PgConnection, StoreError> {
        let (mut connection, facts) = session::open(&self.options).await?;
        self.last_told.check(&mut connection).await?;
        if self.writes && facts.is_read_only {
            return Err(StoreError::Unavailable(Outage::ReadOnly, None));
        }
        metrics::gauge!(oriva_hub_actors::metric_names::STORE_FSYNC).set(if facts.syncs { 1.0 } else { 0.0 });
        if !facts.syncs {
            static TOLD: AtomicBool = AtomicBool::new(false);
            if !TOLD.swap(true, Ordering::Relaxed) {
                tracing::warn!("the database runs with fsync = off: a power cut loses what the hub has acknowledged");
            }
        }
        Ok(connection)
    }

    async fn recycle(&self, connection: &mut PgConnection, metrics: &Metrics) -> RecycleResult<StoreError> {
        if metrics.age() > LIFETIME {
            return Err(RecycleError::message("old"));
        }
        if self.trust.holds() && metrics.last_used() < IDLE {
            return Ok(());
        }
        match tokio::time::timeout(PROOF, connection.ping()).await {
            Ok(answer) => answer.map_err(|error| RecycleError::Backend(error.into())),
            Err(_) => {
                self.trust.lost();
                Err(RecycleError::message("no answer"))
            }
        }
    }
}

/// A number of connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    pool: managed::Pool<Opener>,
    /// One permit for each connection that may be in use.
    room: Arc<Semaphore>,
    allowance: Arc<Mutex<Allowance>>,
    trust: Arc<Trust>,
}

/// How many connections the server allows, as far as it is known.
#[derive(Debug)]
struct Allowance {
    wanted: usize,
    allowed: usize,
    /// When more are asked for. `None` while all that are wanted are allowed.
    ask_at: Option<Instant>,
    /// The log has it.
    was_told: bool,
}

impl Connections {
    /// Up to `wanted` connections, made when they are used, to servers that have the event last told. `writes`: to servers
    /// that take writes.
    pub(super) fn new(
        options: PgConnectOptions,
        wanted: usize,
        writes: bool,
        last_told: Arc<LastTold>,
    ) -> Result<Self, StoreError> {
        let trust = Arc::new(Trust::default());
        let opener = Opener { options, writes, trust: trust.clone(), last_told };
        let config = managed::PoolConfig { queue_mode: managed::QueueMode::Lifo, ..managed::PoolConfig::new(wanted) };
        let pool = managed::Pool::builder(opener).config(config).build().map_err(StoreError::failed)?;
        let allowance = Allowance { wanted, allowed: wanted, ask_at: None, was_told: false };
        Ok(Self { pool, room: Arc::new(Semaphore::new(wanted)), allowance: Arc::new(Mutex::new(allowance)), trust })
    }

    /// A connection.
    ///
    /// # Errors
    /// What was in the way last, after [`ACQUIRE`]; at once where waiting does not help.
    pub(super) async fn get(&self) -> Result<Connection, StoreError> {
        let deadline = tokio::time::Instant::now() + ACQUIRE;
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(10))
            .with_max_delay(Duration::from_millis(500))
            .without_max_times()
            .build();
        let mut obstacle = None;
        loop {
            self.ask_again();
            let room = match timeout_at(deadline, self.room.clone().acquire_owned()).await {
                Ok(Ok(room)) => room,
                Ok(Err(_)) => return Err(StoreError::Unavailable(Outage::Closed, None)),
                Err(_) => return Err(obstacle.unwrap_or(StoreError::Unavailable(Outage::Exhausted, None))),
            };
            let error = match timeout_at(deadline, self.pool.get()).await {
                Ok(Ok(session)) => return Ok(Connection { session, _room: room }),
                Ok(Err(managed::PoolError::Backend(error))) => error,
                Ok(Err(_)) => return Err(StoreError::Unavailable(Outage::Closed, None)),
                Err(_) => return Err(obstacle.unwrap_or(StoreError::Unavailable(Outage::Unreachable, None))),
            };
            match error.outage() {
                Some(Outage::Crowded) => self.make_do(room, &error),
                Some(Outage::Unreachable) => drop(room),
                _ => return Err(error),
            }
            obstacle = Some(error);
            tokio::time::sleep(pauses.next().unwrap_or_default()).await;
        }
    }

    /// A transaction that begins with this statement.
    ///
    /// # Errors
    /// As [`Connections::get`]. A kept connection that turns out to be broken is replaced: nothing was done on it.
    pub(super) async fn begin(&self, statement: &str) -> Result<Transaction, StoreError> {
        loop {
            let mut connection = self.get().await?;
            let begun = connection.execute(statement).await;
            match begun {
                Ok(_) => return Ok(Transaction(Some(connection))),
                Err(error) => self.replace(connection, error.into())?,
            }
        }
    }

    /// Runs a statement that may be repeated. Returns its rows.
    ///
    /// # Errors
    /// As [`Connections::begin`].
    pub(super) async fn fetch_all(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        loop {
            let mut connection = self.get().await?;
            match Postgres::fetch_all(&mut connection, statement.clone()).await {
                Ok(rows) => return Ok(rows),
                Err(error) => self.replace(connection, error)?,
            }
        }
    }

    /// After a failure: closes the connection if it is broken. If it was a kept one, another may serve.
    ///
    /// # Errors
    /// The failure, where it was none of the connection, or another connection will not help.
    fn replace(&self, connection: Connection, error: StoreError) -> Result<(), StoreError> {
        if error.outage() != Some(Outage::Lost) {
            return Err(error);
        }
        let was_kept = connection.was_kept();
        connection.discard();
        self.trust.lost();
        if was_kept { Ok(()) } else { Err(error) }
    }

    /// From now on, for a minute, kept connections have to prove themselves.
    pub(super) fn suspect(&self) {
        self.trust.lost();
    }

    /// Closes an idle connection, if there is one, so that another can be made.
    pub(super) fn give_one_up(&self) {
        let mut has_gone = false;
        self.pool.retain(|_, _| std::mem::replace(&mut has_gone, true));
    }

    /// Connections that are open, and how many of them nobody uses.
    pub(super) fn count(&self) -> (u32, u32) {
        let status = self.pool.status();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        (count(status.size), count(status.available))
    }

    pub(super) async fn close(&self) {
        self.room.close();
        let kept = self.pool.retain(|_, _| false).removed;
        self.pool.close();
        for connection in kept {
            let _ = tokio::time::timeout(PROOF, connection.close()).await;
        }
    }

    fn allowance(&self) -> MutexGuard<'_, Allowance> {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server refused one more. Its room is given up, unless there is no other connection.
    fn make_do(&self, room: OwnedSemaphorePermit, error: &StoreError) {
        let open = self.pool.status().size;
        let mut allowance = self.allowance();
        if open == 0 || allowance.allowed <= open {
            return;
        }
        room.forget();
        allowance.allowed -= 1;
        allowance.ask_at = Some(Instant::now() + ASK_AGAIN);
        if !std::mem::replace(&mut allowance.was_told, true) {
            let (wanted, error) = (allowance.wanted, error as &dyn std::error::Error);
            tracing::warn!(
                open,
                wanted,
                error,
                "fewer connections than database.max_connections; the hub makes do with them"
            );
        }
    }

    fn ask_again(&self) {
        let mut allowance = self.allowance();
        if allowance.ask_at.is_some_and(|at| at <= Instant::now()) {
            allowance.ask_at = None;
            self.room.add_permits(allowance.wanted - allowance.allowed);
            allowance.allowed = allowance.wanted;
        } else if allowance.was_told && allowance.ask_at.is_none() && self.pool.status().size >= allowance.wanted {
            allowance.was_told = false;
            tracing::info!(open = allowance.wanted, "as many connections to the database as database.max_connections");
        }
    }
}

/// A connection in use. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    /// Before the room, so that who gets the room finds the connection.
    session: Object<Opener>,
    _room: OwnedSemaphorePermit,
}

impl Connection {
    /// Whether it was used before.
    fn was_kept(&self) -> bool {
        Object::metrics(&self.session).recycle_count > 0
    }

    /// Closes it.
    fn discard(self) {
        drop(Object::take(self.session));
    }

    /// Ends an unfinished transaction. A connection on which that fails, or that leads to a server that takes no writes any
    /// more, is closed.
    async fn roll_back(mut self) {
        let ended = tokio::time::timeout(PROOF, async {
            self.execute("rollback").await?;
            session::facts(&mut self).await
        });
        match ended.await {
            Ok(Ok(facts)) if !facts.is_standby && !facts.is_read_only => {}
            _ => {
                // The others may lead to where this one did.
                if let Some(pool) = Object::pool(&self.session) {
                    pool.manager().trust.lost();
                }
                self.discard();
            }
        }
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.session
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.session
    }
}

/// A transaction. It is rolled back when this is dropped without a commit.
#[derive(Debug)]
pub(in crate::store) struct Transaction(Option<Connection>);

impl Transaction {
    /// Commits.
    ///
    /// # Errors
    /// If the connection breaks, the outcome is unknown.
    pub(in crate::store) async fn commit(mut self) -> Result<(), StoreError> {
        self.execute("commit").await?;
        self.0 = None;
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("only `commit` takes it, with the transaction")
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("only `commit` takes it, with the transaction")
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(connection) = self.0.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(connection.roll_back())),
            Err(_) => connection.discard(),
        }
    }
}
