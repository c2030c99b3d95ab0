//! Why a call of the store failed. What a database reports becomes one of these in `postgres/errors.rs` and
//! `sqlite/errors.rs`.

use std::{error::Error, path::PathBuf};

/// What a driver or database said.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why a call of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It exists already.
    #[error("already exists")]
    Duplicate,
    /// Other rows refer to it.
    #[error("still in use")]
    InUse,
    /// The database does not work now. The same call may succeed later.
    #[error("{0}")]
    Unavailable(Outage, #[source] Option<Cause>),
    /// Two transactions conflicted, and this one was rolled back. A repeat succeeds.
    #[error("transactions in each other's way")]
    Contended,
    /// The store lost what it had committed: its last commits that this node knows of are gone.
    #[error(
        "the database lost committed events: it came back older than it was (a failover, or a crash without fsync)"
    )]
    LostCommits,
    /// The schema is older than this program.
    #[error("schema is not up to date: run `oriva-hub migrate`")]
    Outdated,
    /// The schema is newer than this program. The number is that of a migration that this program does not know.
    #[error("the schema has migration {0} of a newer version: run that version's program")]
    Newer(i64),
    /// The database server is not as the hub needs it. The text says what to do.
    #[error("{0}")]
    Setup(String),
    /// The file of an embedded store.
    #[error("database.url: {}", .0.display())]
    File(PathBuf, #[source] Box<Self>),
    /// The setting cannot be used. The text says why.
    #[error("database.url: {0}")]
    Url(String),
    /// Anything else: a bug of the hub, or a database that somebody changed.
    #[error("database error")]
    Failed(#[source] Cause),
    /// A migration could not be applied.
    #[error("migration failed")]
    Migration(#[source] Cause),
}

/// Why a database does not work now, with what its operator can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Outage {
    /// Nobody answers at its address, or it is starting or stopping.
    #[error("the database cannot be reached")]
    Unreachable,
    /// It refuses the login.
    #[error("the database refuses the hub's login: see to user, password, database name and pg_hba.conf")]
    Refused,
    /// It accepts no further connection.
    #[error("the database accepts no more connections: raise its limit, or lower database.max_connections")]
    TooManyConnections,
    /// A new connection had no answer in time.
    #[error(
        "a new connection to the database gets no answer: it stands still, or a pooler before it has no session left (raise \
         its pool size, or lower database.max_connections)"
    )]
    NoSession,
    /// All of the hub's connections are in use.
    #[error("all connections to the database are in use: it is slow, or database.max_connections is too low")]
    Exhausted,
    /// The connection broke. What was sent last may have taken effect.
    #[error("the connection to the database broke")]
    Lost,
    /// It did not answer in time. What was sent last may still take effect.
    #[error("the database did not answer in time")]
    NoAnswer,
    /// It ended a query that took too long.
    #[error("the database ended a query that took too long")]
    TooSlow,
    /// It takes no writes.
    #[error(
        "the database takes no writes: it is a standby, default_transaction_read_only is on, or the file is read-only"
    )]
    ReadOnly,
    /// It has no room left.
    #[error("the disk of the database is full: make room, and writing goes on by itself")]
    Full,
    /// Somebody else holds a lock.
    #[error("somebody holds a lock in the database: a backup, a migration, or a transaction that was left open")]
    Locked,
    /// The file of an embedded store is no longer where it was.
    #[error("the database's file was removed or replaced while the hub runs: put it back, or restart the hub")]
    FileReplaced,
    /// It fails for a reason of its own, such as its disk's.
    #[error("the database fails")]
    Broken,
    /// The store was closed, because the hub has stopped.
    #[error("the hub has stopped")]
    Closed,
}

impl StoreError {
    pub(super) fn failed(cause: impl Into<Cause>) -> Self {
        Self::Failed(cause.into())
    }

    /// The same failure of a connection on which nothing was sent yet: the outcome is known.
    pub(super) fn before_anything_was_sent(self) -> Self {
        match self {
            Self::Unavailable(Outage::Lost, cause) => Self::Unavailable(Outage::Unreachable, cause),
            other => other,
        }
    }

    /// No answer in time, or none that could be shared.
    pub(crate) fn no_answer() -> Self {
        Self::Unavailable(Outage::NoAnswer, None)
    }

    /// Why the database does not work now, if that is what failed.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        match self {
            Self::Unavailable(outage, _) => Some(*outage),
            _ => None,
        }
    }

    /// Whether the store was closed, because the hub has stopped.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.outage() == Some(Outage::Closed)
    }

    /// Whether the write may have succeeded all the same: it may if the connection broke during the commit, but not if
    /// the database said that it failed.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self.outage(), Some(Outage::Lost | Outage::NoAnswer))
    }
}
