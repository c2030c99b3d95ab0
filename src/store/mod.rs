//! The truth: what the hub needs of a database, as traits, with PostgreSQL and SQLite behind them. One conformance
//! suite runs against both (`tests/it/store.rs`).

mod append;
mod audit;
mod batch;
mod event;
mod migrations;
mod model;
mod notification;
pub mod postgres;
mod receipts;
mod retention;
mod sql;
pub mod sqlite;
mod status;
mod webhook;

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use oriva_hub_actors::{
    model::{
        AppId, DeliveryId, KeyId, NodeId, NotificationId, Offset, RevokedCredentials, StreamKey, Timestamp, UserId,
        WebhookId,
    },
    ports::{Attempt, Page},
};

use uuid::Uuid;

pub use append::{
    Appended, Create, CreateBatch, Delete, DuplicateExternalId, Expire, IdempotencyClaim, Once, Operation, Origin,
    Outcome, Progress, Publish, PublishBatch, ReadAll, Submission, Work,
};
pub use audit::{AuditEntry, AuditFilter, AuditStore};
pub use event::NewEvent;
pub use model::{ApiKey, App, AppChange, Audit, EventFilter, EventPage, LimitOverrides, NewApp, NewKey};
pub use notification::{
    AccessScope, Change, ChangeError, Content, DeliveryReceipt, FeedFilter, FeedPage, FeedPosition, Lookup,
    NewNotification, Notification, NotificationRecord, NotificationState, Priority,
};
pub use receipts::{
    BatchItem, EventReceipt, EventReceipts, EventResult, FaultyField, ItemError, ItemErrorCode, NotificationReceipt,
    NotificationReceipts, NotificationResult,
};
pub use retention::{ArchiveTable, Export, Range, RetentionClass, RetentionStore, Step};
pub use status::{InvalidTransition, Status};
pub use webhook::{
    AfterAttempts, AttemptRow, Claimed, DeliveryFilter, DeliveryRow, DeliveryStatus, Lease, NewWebhook, Recovery,
    SecretChange, Webhook, WebhookChange,
};

/// How long the hub's own questions may take.
pub const DEADLINE: Duration = Duration::from_secs(15);
/// How long a node is taken to live after it last said so.
pub const NODE_LIFE: Duration = Duration::from_secs(5);
/// Past this many, a listing's `total` is capped (contract §4).
pub const TOTAL_CAP: u64 = 10_000;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The thing is there already.
    #[error("already exists")]
    Duplicate,
    /// Other rows still need it.
    #[error("still in use")]
    InUse,
    /// The database cannot be reached or cannot take more now; the same call may go through later.
    #[error("database unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// Two transactions stood in each other's way and this one was taken back; it goes through when repeated.
    #[error("transactions in each other's way")]
    Contended,
    /// The schema is not the one this binary was built for.
    #[error("schema is not up to date: run `oriva-hub migrate`")]
    Outdated,
    /// The file of an embedded store.
    #[error("database.url: {}", .0.display())]
    File(PathBuf, #[source] Box<Self>),
    /// The address of a database server cannot be read.
    #[error("database.url: characters such as / + = @ of a password are written %2F %2B %3D %40")]
    Url(#[source] sqlx::Error),
    /// Anything else: a defect of the hub's, or a database that was tampered with.
    #[error("database error")]
    Failed(#[source] sqlx::Error),
    #[error("migration failed")]
    Migration(#[from] sqlx::migrate::MigrateError),
}

impl StoreError {
    /// Whether the store was closed: the hub has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Unavailable(sqlx::Error::PoolClosed))
    }

    /// Whether what was to be written may be written all the same: a connection that broke during the commit leaves
    /// that open, one that was never had does not.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Unavailable(cause) => !matches!(cause, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed),
            _ => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::error::ErrorKind;
        match &error {
            sqlx::Error::Database(cause) => match cause.kind() {
                ErrorKind::UniqueViolation => Self::Duplicate,
                ErrorKind::ForeignKeyViolation => Self::InUse,
                // SQLite's extended code for a restricted delete, which it counts among triggers.
                _ if cause.code().as_deref() == Some("1811") => Self::InUse,
                // Serialisation failure and deadlock.
                _ if matches!(cause.code().as_deref(), Some("40001" | "40P01")) => Self::Contended,
                // PostgreSQL classes 08 connection, 40 rollback, 53 resources, 57 operator intervention;
                // SQLite 5 busy, 6 locked, 10 I/O, 13 full.
                _ => match cause.code().as_deref() {
                    Some(code) if code.len() == 5 && ["08", "40", "53", "57"].contains(&&code[..2]) => {
                        Self::Unavailable(error)
                    }
                    Some("5" | "6" | "10" | "13" | "261" | "517") => Self::Unavailable(error),
                    _ => Self::Failed(error),
                },
            },
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            _ => Self::Failed(error),
        }
    }
}

/// A store's connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pool {
    pub size: u32,
    pub idle: u32,
}

/// Events and the streams that number them, as they are written.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// Writes all submissions in one transaction: claims, offsets, events, answers. One outcome a submission, in
    /// order. When it returns, what it says is durable.
    ///
    /// # Errors
    /// Nothing was written.
    async fn append(&self, submissions: &[Submission]) -> Result<Vec<Appended>, StoreError>;
}

/// Events and streams, as they are read.
#[async_trait]
pub trait EventReader: Send + Sync {
    /// An app's events, newest first. Runs with the app as its tenant.
    async fn events(&self, app: &AppId, filter: &EventFilter) -> Result<EventPage, StoreError>;

    /// The offset of a stream's last event; 0 where it has none.
    async fn head(&self, stream: &StreamKey) -> Result<Offset, StoreError>;

    /// The same of many streams at once, in their order. Work of the hub's own.
    async fn heads(&self, streams: &[StreamKey]) -> Result<Vec<Offset>, StoreError>;

    /// At most `limit` of a stream's events later than `after`, in order. Runs with the stream's holder as its tenant.
    async fn page(&self, stream: &StreamKey, after: Offset, limit: usize) -> Result<Page, StoreError>;

    /// Deletes answers whose time is over, at most `limit`; how many.
    async fn purge_idempotency_keys(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError>;
}

/// Apps and their keys. Every change raises the identity revision in its own transaction.
#[async_trait]
pub trait AppStore: Send + Sync {
    /// Makes an app, and its first key with it.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] where the app exists.
    async fn create_app(&self, app: &NewApp, key: Option<&NewKey>, audit: &Audit) -> Result<App, StoreError>;

    async fn app(&self, app: &AppId) -> Result<Option<App>, StoreError>;

    /// All apps, by id.
    async fn apps(&self) -> Result<Vec<App>, StoreError>;

    /// `None` where there is no such app.
    async fn update_app(&self, app: &AppId, change: &AppChange, audit: &Audit) -> Result<Option<App>, StoreError>;

    /// Deletes an app that has no data, its keys with it. False where there is no such app.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where it has data.
    async fn delete_app(&self, app: &AppId, audit: &Audit) -> Result<bool, StoreError>;

    /// # Errors
    /// [`StoreError::InUse`] where there is no such app.
    async fn add_key(&self, key: &NewKey, audit: &Audit) -> Result<ApiKey, StoreError>;

    /// An app's keys, oldest first, revoked ones included.
    async fn keys(&self, app: &AppId) -> Result<Vec<ApiKey>, StoreError>;

    /// The key with this hash and its app, whatever their state.
    async fn key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<(ApiKey, App)>, StoreError>;

    /// Revokes a key; `None` where there is no such key. Revoking again changes nothing.
    async fn revoke_key(&self, key: KeyId, audit: &Audit) -> Result<Option<ApiKey>, StoreError>;

    /// Notes when keys were last used.
    async fn touch_keys(&self, used: &[(KeyId, Timestamp)]) -> Result<(), StoreError>;

    /// A number that rises with every change of an app or key, on whichever node or by whichever command.
    async fn identity_revision(&self) -> Result<u64, StoreError>;

    /// Apps that are not active, and keys revoked since a moment.
    async fn revoked_credentials(&self, since: Timestamp) -> Result<RevokedCredentials, StoreError>;
}

/// How many of an app's notifications stand so with a user.
#[derive(Debug, Clone)]
pub struct StatusCount {
    pub app_id: AppId,
    pub status: Status,
    pub count: u64,
}

/// Inboxes, as they are read. They are changed by [`EventStore::append`], together with the events that tell of it.
/// What is over counts as expired from that moment, even before it was made so.
#[async_trait]
pub trait NotificationStore: Send + Sync {
    /// One notification. Runs with the caller as its tenant.
    async fn notification(&self, scope: &AccessScope, id: NotificationId) -> Result<Lookup, StoreError>;

    /// A page of a user's feed, urgent to low, then newest first. Runs with the caller as its tenant.
    async fn feed(
        &self,
        scope: &AccessScope,
        user: &UserId,
        filter: &FeedFilter,
        now: Timestamp,
    ) -> Result<FeedPage, StoreError>;

    /// A user's unread notifications within reach.
    async fn unread(&self, scope: &AccessScope, user: &UserId, now: Timestamp) -> Result<u64, StoreError>;

    /// A user's notifications within reach, by app and status.
    async fn counts(&self, scope: &AccessScope, user: &UserId, now: Timestamp) -> Result<Vec<StatusCount>, StoreError>;

    /// When the next notification is over; one that is over already comes first.
    async fn next_expiry(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Notes when sockets were handed these, where nothing is noted yet.
    async fn record_receipts(&self, receipts: &[DeliveryReceipt]) -> Result<(), StoreError>;
}

/// Webhooks as their apps see them.
#[async_trait]
pub trait WebhookStore: Send + Sync {
    async fn create_webhook(&self, new: &NewWebhook, audit: &Audit) -> Result<Webhook, StoreError>;

    /// An app's webhooks, oldest first. Runs with the app as its tenant.
    async fn webhooks(&self, app: &AppId) -> Result<Vec<Webhook>, StoreError>;

    async fn webhook(&self, app: &AppId, id: WebhookId) -> Result<Option<Webhook>, StoreError>;

    /// `None` where the app has no such webhook.
    async fn update_webhook(
        &self,
        app: &AppId,
        id: WebhookId,
        change: &WebhookChange,
        audit: &Audit,
    ) -> Result<Option<Webhook>, StoreError>;

    async fn rotate_secret(
        &self,
        app: &AppId,
        id: WebhookId,
        change: &SecretChange,
        audit: &Audit,
    ) -> Result<Option<Webhook>, StoreError>;

    /// Deletes a webhook with its deliveries and their log. False where the app has none such.
    async fn delete_webhook(&self, app: &AppId, id: WebhookId, audit: &Audit) -> Result<bool, StoreError>;

    /// A webhook's deliveries with their attempts, newest first.
    async fn deliveries(
        &self,
        app: &AppId,
        id: WebhookId,
        filter: &DeliveryFilter,
    ) -> Result<Vec<DeliveryRow>, StoreError>;

    /// Makes a delivery due again, from its first attempt on.
    async fn redeliver(
        &self,
        app: &AppId,
        id: WebhookId,
        delivery: DeliveryId,
        audit: &Audit,
    ) -> Result<Option<DeliveryRow>, StoreError>;

    /// Opens a job that queues again what has no successful delivery since a moment.
    async fn start_recovery(
        &self,
        app: &AppId,
        id: WebhookId,
        since: Timestamp,
        audit: &Audit,
    ) -> Result<Option<Recovery>, StoreError>;

    /// A webhook's last recovery.
    async fn recovery(&self, app: &AppId, id: WebhookId) -> Result<Option<Recovery>, StoreError>;
}

/// The queue of deliveries to webhooks. Deliveries are added by [`EventStore::append`], in the transaction of their events.
#[async_trait]
pub trait DeliveryQueue: Send + Sync {
    /// Claims due deliveries under a lease; `None` where the webhook is gone or not active.
    async fn claim_deliveries(
        &self,
        id: WebhookId,
        limit: u32,
        lease: Lease,
        now: Timestamp,
    ) -> Result<Option<Claimed>, StoreError>;

    /// Makes due again what was claimed under leases that have ended. Returns whose deliveries those were.
    async fn free_leases(&self, now: Timestamp) -> Result<Vec<WebhookId>, StoreError>;
}

/// What becomes of deliveries.
#[async_trait]
pub trait DeliveryRecords: Send + Sync {
    /// Takes the oldest open recovery one step of at most `limit` events further; `None` where there is none, or another
    /// node has it.
    async fn advance_recovery(&self, limit: u32) -> Result<Option<Recovery>, StoreError>;

    /// Makes due again what `owner` has claimed of these, as if it had never been claimed.
    async fn release_deliveries(&self, id: WebhookId, owner: Uuid, deliveries: &[DeliveryId])
    -> Result<(), StoreError>;

    /// Records attempts: deliveries, log and the webhook's figures in one transaction. A webhook is disabled by
    /// `disable_after` failures in a row, or by a 410. `None` where it is gone. A success ends a delivery whoever has
    /// claimed it now; a failure counts only where `owner` still has. Recording the same attempts again changes nothing.
    async fn record_attempts(
        &self,
        id: WebhookId,
        owner: Uuid,
        attempts: &[Attempt],
        disable_after: u32,
        now: Timestamp,
    ) -> Result<Option<AfterAttempts>, StoreError>;

    /// Records an attempt that belongs to no delivery: a test.
    async fn log_attempt(&self, webhook: &Webhook, attempt: &Attempt, now: Timestamp) -> Result<(), StoreError>;

    /// Active webhooks with deliveries that wait, by id, those after `after`.
    async fn webhooks_with_work(&self, after: Option<WebhookId>, limit: u32) -> Result<Vec<WebhookId>, StoreError>;

    /// The earliest moment at which a delivery of an active webhook is due and waits.
    async fn oldest_due(&self) -> Result<Option<Timestamp>, StoreError>;

    /// How many deliveries wait or are in flight.
    async fn pending_deliveries(&self) -> Result<u64, StoreError>;

    /// Every webhook's sealed secrets: the current one, and the one before.
    async fn webhook_secrets(&self) -> Result<Vec<(WebhookId, Vec<u8>, Option<Vec<u8>>)>, StoreError>;

    /// Exchanges a webhook's sealed secrets, where the current one is still `was`.
    async fn reseal_secret(
        &self,
        id: WebhookId,
        was: &[u8],
        secret: &[u8],
        previous: Option<&[u8]>,
    ) -> Result<(), StoreError>;
}

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeBeat {
    pub node: NodeId,
    /// Whether it hears, and is heard by, the others over Redis.
    pub on_bus: bool,
    /// Connection places taken there.
    pub connections: usize,
    /// Users online there.
    pub users: usize,
}

/// The nodes that serve this store. It sees also those that nothing else sees: a node that is cut off from the bus still
/// commits events.
#[async_trait]
pub trait NodeStore: Send + Sync {
    /// Says that this node lives; the others that said so within [`NODE_LIFE`].
    async fn beat(&self, own: &NodeBeat) -> Result<Vec<NodeBeat>, StoreError>;

    /// This node stops.
    async fn leave(&self, node: NodeId) -> Result<(), StoreError>;
}

/// The store as a whole.
#[async_trait]
pub trait Store:
    EventStore
    + EventReader
    + AppStore
    + AuditStore
    + NotificationStore
    + WebhookStore
    + DeliveryQueue
    + DeliveryRecords
    + NodeStore
    + RetentionStore
{
    /// Brings the schema up to date. Names of what was applied.
    async fn migrate(&self) -> Result<Vec<String>, StoreError>;

    /// Whether the schema is the one this binary was built for.
    ///
    /// # Errors
    /// [`StoreError::Outdated`] where it is not.
    async fn check_schema(&self) -> Result<(), StoreError>;

    /// The store's own id, the same for as long as its offsets mean the same.
    async fn epoch(&self) -> Result<Arc<str>, StoreError>;

    /// Takes a new epoch: for a store that was put back from a backup.
    async fn renew_epoch(&self) -> Result<Arc<str>, StoreError>;

    /// Answers when the database does.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Its connections now.
    fn pool(&self) -> Pool;

    /// A question was given up: for a while, connections that come back are not trusted without an answer.
    fn suspect_connections(&self) {}

    /// Ends all connections.
    async fn close(&self);
}

/// Asks a question and gives it up where its host has gone without a word, which the kernel notices only after minutes.
///
/// # Errors
/// [`StoreError::Unavailable`], in doubt, after [`DEADLINE`].
pub async fn within_deadline<T, E: From<StoreError>>(
    store: &dyn Store,
    question: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::pin!(question);
    tokio::time::timeout(DEADLINE, &mut question).await.unwrap_or_else(|_| {
        store.suspect_connections();
        Err(StoreError::Unavailable(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())).into())
    })
}

/// A short random id for a store: base 36, 8 characters.
fn new_epoch() -> String {
    const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    (0..8).map(|_| char::from(DIGITS[rand::random_range(0..DIGITS.len())])).collect()
}

/// An address as the databases take it.
fn ip_text(ip: Option<IpAddr>) -> Option<String> {
    ip.map(|ip| ip.to_string())
}
