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
    Connection as _, Executor as _, PgConnection,
    postgres::{PgConnectOptions, PgRow},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};

use super::{arguments::fetch_all, last_sent::LastSent, session};
use crate::store::{Outage, StoreError, sql::statement::Statement};

/// How long a request waits for a connection before it is told that the database is unavailable.
pub(super) const ACQUIRE: Duration = Duration::from_secs(5);
/// A connection is replaced at this age: a server's session never gives memory back.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// A connection that was idle for this long is asked before it is used: something on the way may have forgotten it.
const IDLE: Duration = Duration::from_secs(30);
/// How long connections are asked before they are trusted again, after one did not answer.
const DISTRUSTED_FOR: Duration = Duration::from_secs(60);
/// What a connection that is not trusted may take to answer.
const PROOF: Duration = Duration::from_secs(2);
/// How long after a refusal more connections are asked for.
const RESTORE_AFTER: Duration = Duration::from_secs(30);

/// Makes connections, and says which are still good.
#[derive(Debug)]
struct Opener {
    options: PgConnectOptions,
    /// Refuses servers that take no writes.
    appends: bool,
    trust: Arc<Trust>,
    last_sent: Arc<LastSent>,
}

/// Whether kept connections have to prove that somebody is at the other end. One whose host is gone would otherwise be
/// waited for until the kernel gives up, and keep its place in the pool.
#[derive(Debug, Default)]
struct Trust(Mutex<Option<Instant>>);

impl Trust {
    fn suspect(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_trusted(&self) -> bool {
        let lost = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lost.is_none_or(|lost| lost.elapsed() > DISTRUSTED_FOR)
    }
}

impl managed::Manager for Opener {
    type Type = PgConnection;
    type Error = StoreError;

    async fn create(&self) -> Result<PgConnection, StoreError> {
        let opened = async {
            let (mut connection, facts) = session::open(&self.options).await?;
            self.last_sent.check(&mut connection).await?;
            Ok((connection, facts))
        };
        let (connection, facts) = opened.await.map_err(StoreError::before_anything_was_sent)?;
        if self.appends && facts.is_read_only {
            return Err(StoreError::Unavailable(Outage::ReadOnly, None));
        }
        metrics::gauge!(oriva_hub_actors::metric_names::STORE_FSYNC).set(if facts.syncs { 1.0 } else { 0.0 });
        if !facts.syncs {
            static LOGGED: AtomicBool = AtomicBool::new(false);
            if !LOGGED.swap(true, Ordering::Relaxed) {
                tracing::warn!("the database runs with fsync = off: a power cut loses what the hub has acknowledged");
            }
        }
        Ok(connection)
    }

    async fn recycle(&self, connection: &mut PgConnection, metrics: &Metrics) -> RecycleResult<StoreError> {
        if metrics.age() > LIFETIME {
            return Err(RecycleError::message("old"));
        }
        if self.trust.is_trusted() && metrics.last_used() < IDLE {
            return Ok(());
        }
        match tokio::time::timeout(PROOF, session::facts(connection)).await {
            // Its server became a standby, or it was made while all were read-only.
            Ok(Ok(facts)) if facts.is_standby || facts.is_read_only => Err(RecycleError::message("takes no writes")),
            Ok(answer) => answer.map(drop).map_err(RecycleError::Backend),
            Err(_) => {
                self.trust.suspect();
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
    capacity: Arc<Semaphore>,
    allowance: Arc<Mutex<Allowance>>,
    trust: Arc<Trust>,
    appends: bool,
}

/// How many connections the server allows, as far as it is known.
#[derive(Debug)]
struct Allowance {
    wanted: usize,
    allowed: usize,
    /// When more are asked for. `None` while all that are wanted are allowed.
    restore_at: Option<Instant>,
    /// Whether the shortage was logged.
    is_logged: bool,
}

impl Connections {
    /// Up to `wanted` connections, made when they are used, to servers that have the event last told. `appends`: to
    /// servers that take writes.
    pub(super) fn new(
        options: PgConnectOptions,
        wanted: usize,
        appends: bool,
        last_sent: Arc<LastSent>,
    ) -> Result<Self, StoreError> {
        let trust = Arc::new(Trust::default());
        let opener = Opener { options, appends, trust: trust.clone(), last_sent };
        let config = managed::PoolConfig { queue_mode: managed::QueueMode::Lifo, ..managed::PoolConfig::new(wanted) };
        let pool = managed::Pool::builder(opener).config(config).build().map_err(StoreError::failed)?;
        let allowance = Allowance { wanted, allowed: wanted, restore_at: None, is_logged: false };
        let (capacity, allowance) = (Arc::new(Semaphore::new(wanted)), Arc::new(Mutex::new(allowance)));
        Ok(Self { pool, capacity, allowance, trust, appends })
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
            self.restore_capacity();
            let capacity = match timeout_at(deadline, self.capacity.clone().acquire_owned()).await {
                Ok(Ok(capacity)) => capacity,
                Ok(Err(_)) => return Err(StoreError::Unavailable(Outage::Closed, None)),
                Err(_) => return Err(obstacle.unwrap_or(StoreError::Unavailable(Outage::Exhausted, None))),
            };
            let error = match timeout_at(deadline, self.pool.get()).await {
                Ok(Ok(session)) => return Ok(Connection { session: Some(session), capacity: Some(capacity) }),
                Ok(Err(managed::PoolError::Backend(error))) => error,
                Ok(Err(_)) => return Err(StoreError::Unavailable(Outage::Closed, None)),
                Err(_) => return Err(obstacle.unwrap_or(StoreError::Unavailable(Outage::NoSession, None))),
            };
            match error.outage() {
                // Who appends can have one of the others'.
                Some(Outage::TooManyConnections | Outage::NoSession)
                    if self.appends && self.pool.status().size == 0 =>
                {
                    return Err(error);
                }
                Some(Outage::TooManyConnections | Outage::NoSession) => self.shrink(capacity, &error),
                Some(Outage::Unreachable) => drop(capacity),
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
                Ok(_) => return Ok(Transaction(connection)),
                Err(error) => drop(self.replace(connection, error.into())?),
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
            match fetch_all(&mut connection, &statement).await {
                Ok(rows) => {
                    connection.give_back();
                    return Ok(rows);
                }
                Err(error) => drop(self.replace(connection, error)?),
            }
        }
    }

    /// Runs a statement that writes and commits, and that cannot succeed twice. Returns its rows if they are those of something
    /// `written`, and `None` if it wrote nothing.
    ///
    /// # Errors
    /// As [`Connections::begin`]. Where a kept connection broke, the statement is sent on another one. If that one does not
    /// write, whyever, the first one may have: [`Outage::Lost`], whose outcome is unknown.
    pub(super) async fn write(
        &self,
        statement: &Statement<'_>,
        written: impl Fn(&[PgRow]) -> Result<bool, StoreError>,
    ) -> Result<Option<Vec<PgRow>>, StoreError> {
        let mut lost = None;
        loop {
            let tried = match self.get().await {
                Ok(mut connection) => match fetch_all(&mut connection, statement).await {
                    Ok(rows) => {
                        connection.give_back();
                        match (written(&rows)?, lost) {
                            (true, _) => return Ok(Some(rows)),
                            (false, None) => return Ok(None),
                            (false, Some(lost)) => return Err(lost),
                        }
                    }
                    Err(error) => self.replace(connection, error),
                },
                Err(error) => Err(error),
            };
            match (tried, lost.take()) {
                (Ok(error), _) => lost = Some(error),
                (Err(error), Some(lost)) => return Err(also(lost, &error)),
                (Err(error), None) => return Err(error),
            }
        }
    }

    /// After a failure: closes the connection if it is broken. If it was a kept one, another may serve. Returns the failure.
    ///
    /// # Errors
    /// The failure, where it was none of the connection, or another connection will not help.
    fn replace(&self, connection: Connection, error: StoreError) -> Result<StoreError, StoreError> {
        if error.outage() != Some(Outage::Lost) {
            return Err(error);
        }
        let was_kept = connection.was_kept();
        connection.discard();
        self.trust.suspect();
        if was_kept { Ok(error) } else { Err(error) }
    }

    /// From now on, for a minute, kept connections have to prove themselves.
    pub(super) fn suspect(&self) {
        self.trust.suspect();
    }

    /// Closes an idle connection, if there is one, and makes do without it, so that another pool can have one.
    pub(super) fn close_idle(&self) {
        let Ok(capacity) = self.capacity.clone().try_acquire_owned() else { return };
        let mut has_closed = false;
        self.pool.retain(|_, _| std::mem::replace(&mut has_closed, true));
        let mut allowance = self.allowance();
        if has_closed && allowance.allowed > 1 {
            capacity.forget();
            allowance.allowed -= 1;
            allowance.restore_at = Some(Instant::now() + RESTORE_AFTER);
        }
    }

    /// Connections that are open, and how many of them nobody uses.
    pub(super) fn count(&self) -> (u32, u32) {
        let status = self.pool.status();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        (count(status.size), count(status.available))
    }

    pub(super) async fn close(&self) {
        self.capacity.close();
        let kept = self.pool.retain(|_, _| false).removed;
        self.pool.close();
        for connection in kept {
            let _ = tokio::time::timeout(PROOF, connection.close()).await;
        }
    }

    fn allowance(&self) -> MutexGuard<'_, Allowance> {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server refused one more. Fewer are asked for from now on, unless there is no other connection.
    fn shrink(&self, capacity: OwnedSemaphorePermit, error: &StoreError) {
        let open = self.pool.status().size;
        let mut allowance = self.allowance();
        if open == 0 || allowance.allowed <= open {
            return;
        }
        capacity.forget();
        allowance.allowed -= 1;
        allowance.restore_at = Some(Instant::now() + RESTORE_AFTER);
        if !std::mem::replace(&mut allowance.is_logged, true) {
            let (wanted, error) = (allowance.wanted, error as &dyn std::error::Error);
            tracing::warn!(
                open,
                wanted,
                error,
                "fewer connections than database.max_connections; the hub makes do with them"
            );
        }
    }

    fn restore_capacity(&self) {
        let mut allowance = self.allowance();
        if allowance.restore_at.is_some_and(|at| at <= Instant::now()) {
            allowance.restore_at = None;
            self.capacity.add_permits(allowance.wanted - allowance.allowed);
            allowance.allowed = allowance.wanted;
        } else if allowance.is_logged && allowance.restore_at.is_none() && self.pool.status().size >= allowance.wanted {
            allowance.is_logged = false;
            tracing::info!(open = allowance.wanted, "as many connections to the database as database.max_connections");
        }
    }
}

/// A connection was lost, and on another one the statement failed for this reason.
fn also(lost: StoreError, obstacle: &StoreError) -> StoreError {
    let StoreError::Unavailable(outage, cause) = lost else { return lost };
    let cause = cause.map_or_else(String::new, |cause| cause.to_string());
    StoreError::Unavailable(outage, Some(format!("{cause}; on another connection: {obstacle}").into()))
}

/// A connection in use. Whoever is done with it calls [`Connection::give_back`]. Where this is dropped instead, as when a caller
/// no longer waits, a statement may be under way or a transaction open: it is rolled back first.
#[derive(Debug)]
pub(super) struct Connection {
    session: Option<Object<Opener>>,
    capacity: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Whether it was used before.
    fn was_kept(&self) -> bool {
        self.session.as_ref().is_some_and(|session| Object::metrics(session).recycle_count > 0)
    }

    /// Gives it back: nothing is under way on it.
    pub(super) fn give_back(mut self) {
        // The session first, so that who gets the capacity finds it.
        self.session = None;
        self.capacity = None;
    }

    /// Closes it.
    fn discard(mut self) {
        self.session.take().map(Object::take);
        self.capacity = None;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let dirty = Dirty { session: Some(session), _capacity: self.capacity.take() };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(dirty.roll_back()));
        }
    }
}

/// A connection on which something may be under way. It is closed where nobody ends that.
struct Dirty {
    session: Option<Object<Opener>>,
    _capacity: Option<OwnedSemaphorePermit>,
}

impl Dirty {
    /// Ends what is under way. Where that fails, or the connection leads to a server that takes no writes any more, it stays
    /// dirty.
    async fn roll_back(mut self) {
        let Some(session) = &mut self.session else { return };
        let ended = tokio::time::timeout(PROOF, async {
            session.execute("rollback").await?;
            session::facts(session).await
        });
        match ended.await {
            Ok(Ok(facts)) if !facts.is_standby && !facts.is_read_only => drop(self.session.take()),
            // The others may lead to where this one did.
            _ => {
                if let Some(pool) = Object::pool(session) {
                    pool.manager().trust.suspect();
                }
            }
        }
    }
}

impl Drop for Dirty {
    fn drop(&mut self) {
        self.session.take().map(Object::take);
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.session.as_ref().expect("taken only when it is given back or closed")
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.session.as_mut().expect("taken only when it is given back or closed")
    }
}

/// A transaction. It is rolled back when this is dropped without a commit.
#[derive(Debug)]
pub(in crate::store) struct Transaction(Connection);

impl Transaction {
    /// Commits.
    ///
    /// # Errors
    /// If the connection breaks, the outcome is unknown.
    pub(in crate::store) async fn commit(mut self) -> Result<(), StoreError> {
        self.execute("commit").await?;
        self.0.give_back();
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}
