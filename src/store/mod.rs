//! The store: traits for what the hub needs of a database, with PostgreSQL and SQLite behind them. One conformance
//! suite runs against both (`tests/it/store.rs`).

mod append;
mod audit;
mod batch;
mod error;
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

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use oriva_hub_actors::{
    model::{
        AppId, DeliveryId, KeyId, NodeId, NotificationId, Offset, OwnedWebhook, StreamKey, Timestamp, UserId, WebhookId,
    },
    ports::{Attempt, Page, PageLimit},
};

use tokio::time::Instant;
use uuid::Uuid;

pub use append::{
    Appended, Create, CreateBatch, Delete, DuplicateExternalId, Expire, IdempotencyClaim, KeyedOperation, KeyedOutcome,
    Operation, Origin, Outcome, Progress, Publish, PublishBatch, ReadAll, Submission, Work,
};
pub use audit::{AuditEntry, AuditFilter, AuditStore};
pub use error::{Cause, Outage, StoreError};
pub use event::NewEvent;
pub use model::{
    ApiKey, App, AppChange, Audit, EventFilter, EventPage, EventPosition, LimitOverrides, NewApp, NewKey, PageRequest,
};
pub use notification::{
    AccessScope, Change, ChangeError, Content, DeliveryReceipt, FeedFilter, FeedPage, FeedPosition, Lookup,
    NewNotification, Notification, NotificationRecord, NotificationState, Priority, UnreadCount, Validity,
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

/// Deadline of every query and transaction of a request or a task.
pub const DEADLINE: Duration = Duration::from_secs(15);
/// A node counts as alive for this long after its last heartbeat in the store.
pub const NODE_LIFE: Duration = Duration::from_secs(5);
/// Greatest `total` of a list. Beyond it `total_is_capped` is true (contract §4).
pub const TOTAL_CAP: u64 = 10_000;

/// The number of a store's connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pool {
    /// Connections that are open.
    pub size: u32,
    /// Connections that nobody uses.
    pub idle: u32,
}

/// What a store says of itself, for its operator.
#[derive(Debug, Clone)]
pub struct StoreFacts {
    /// Which database, and which version.
    pub server: String,
    /// The time by the database's clock; `None` if it has no other clock than the node.
    pub now: Option<Timestamp>,
    /// What works, and should be looked at, each with what to do.
    pub concerns: Vec<String>,
}

/// Writing: operations, the events that tell of them, and the offsets of both streams of each event.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// Writes all submissions in one transaction. Returns what each wrote, in their order. It is durable when this
    /// returns.
    ///
    /// # Errors
    /// Nothing was written, unless [`StoreError::is_outcome_unknown`].
    async fn append(&self, submissions: &[Submission]) -> Result<Vec<Appended>, StoreError>;
}

/// Reading events and streams.
#[async_trait]
pub trait EventReader: Send + Sync {
    /// An app's events, newest first. Runs with the app as its tenant.
    async fn events(&self, app: &AppId, filter: &EventFilter) -> Result<EventPage, StoreError>;

    /// The offset of a stream's last event; 0 if it has none.
    async fn head(&self, stream: &StreamKey) -> Result<Offset, StoreError>;

    /// The heads of many streams, in the order of the request. Runs as the hub itself.
    async fn heads(&self, streams: &[StreamKey]) -> Result<Vec<Offset>, StoreError>;

    /// Reads pages of several streams at once. Returns them in the order of the requests. This is work of the hub
    /// itself, with no tenant: a request names the one stream that its session holds.
    async fn pages(&self, requests: &[PageRequest], limit: PageLimit) -> Result<Vec<Page>, StoreError>;

    /// Deletes at most `limit` expired idempotency keys. Returns their number.
    async fn purge_idempotency_keys(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError>;
}

/// What other nodes and commands may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revisions {
    /// It rises with every change of an app or key, on whichever node or by whichever command.
    pub identity: u64,
    /// The store's epoch.
    pub epoch: String,
}

/// Apps and their keys. Every change raises the identity revision in its own transaction.
#[async_trait]
pub trait AppStore: Send + Sync {
    /// Creates an app, with its first key if there is one.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] if the app exists.
    async fn create_app(&self, app: &NewApp, key: Option<&NewKey>, audit: &Audit) -> Result<App, StoreError>;

    /// One app. `None` if there is none with this id.
    async fn app(&self, app: &AppId) -> Result<Option<App>, StoreError>;

    /// All apps, by id.
    async fn apps(&self) -> Result<Vec<App>, StoreError>;

    /// Changes an app. `None` if there is no such app.
    async fn update_app(&self, app: &AppId, change: &AppChange, audit: &Audit) -> Result<Option<App>, StoreError>;

    /// Deletes an app that has no data, with its keys. False if there is no such app.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if it has data.
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

    /// What every node looks at each second.
    async fn revisions(&self) -> Result<Revisions, StoreError>;

    /// Those of `keys` that exist and are not revoked.
    async fn valid_keys(&self, keys: &[KeyId]) -> Result<HashSet<KeyId>, StoreError>;
}

/// A number of notifications of one app with one status.
#[derive(Debug, Clone)]
pub struct StatusCount {
    /// The app.
    pub app_id: AppId,
    /// The status.
    pub status: Status,
    /// Number of notifications.
    pub count: u64,
}

/// Reading notifications. They are changed by [`EventStore::append`], together with the events that tell of it. A
/// notification past its `expires_at` counts as expired, even before its row says so.
#[async_trait]
pub trait NotificationStore: Send + Sync {
    /// One notification. Runs with the caller as its tenant.
    async fn notification(&self, scope: &AccessScope, id: NotificationId) -> Result<Lookup, StoreError>;

    /// A page of a user's feed, urgent to low, then newest first, with its totals: all of one moment. Runs with the
    /// caller as its tenant. `counted` is an earlier count in the same scope; if it still holds, nothing is counted.
    async fn feed(
        &self,
        scope: &AccessScope,
        user: &UserId,
        filter: &FeedFilter,
        now: Timestamp,
        counted: Option<UnreadCount>,
    ) -> Result<FeedPage, StoreError>;

    /// Numbers of a user's notifications in the scope, by app and status, and when the first of them expires.
    async fn counts(
        &self,
        scope: &AccessScope,
        user: &UserId,
        now: Timestamp,
    ) -> Result<(Vec<StatusCount>, Option<Timestamp>), StoreError>;

    /// The earliest `expires_at` of a notification that can still expire. It may have passed.
    async fn next_expiry(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Sets `delivered_at` of notifications that have none.
    async fn record_receipts(&self, receipts: &[DeliveryReceipt]) -> Result<(), StoreError>;
}

/// Webhooks, as apps manage them.
#[async_trait]
pub trait WebhookStore: Send + Sync {
    /// Creates a webhook. Nodes know of it with their next transaction. `None` if the app has `max_per_app` already.
    async fn create_webhook(
        &self,
        new: &NewWebhook,
        max_per_app: u32,
        audit: &Audit,
    ) -> Result<Option<Webhook>, StoreError>;

    /// A page of an app's webhooks after one of them, oldest first. Runs with the app as its tenant.
    async fn webhooks(&self, app: &AppId, after: Option<WebhookId>, limit: u32) -> Result<Vec<Webhook>, StoreError>;

    /// One webhook of an app. `None` if the app has none with this id.
    async fn webhook(&self, app: &AppId, id: WebhookId) -> Result<Option<Webhook>, StoreError>;

    /// Whether there is a webhook with this id, of any app.
    async fn webhook_exists(&self, id: WebhookId) -> Result<bool, StoreError>;

    /// Changes a webhook. `None` if the app has no such webhook.
    async fn update_webhook(
        &self,
        app: &AppId,
        id: WebhookId,
        change: &WebhookChange,
        audit: &Audit,
    ) -> Result<Option<Webhook>, StoreError>;

    /// Gives a webhook a new secret. The one before stays valid for the time that `change` says. `None` if the app has no
    /// such webhook.
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

    /// Queues a delivery again, beginning with its first attempt.
    async fn redeliver(
        &self,
        app: &AppId,
        id: WebhookId,
        delivery: DeliveryId,
        audit: &Audit,
    ) -> Result<Option<DeliveryRow>, StoreError>;

    /// Starts a job that queues all events again that have no successful delivery since a moment.
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
    /// Claims deliveries that are due at `now`, under a lease. `None` if the webhook was deleted or is not active.
    async fn claim_deliveries(
        &self,
        id: WebhookId,
        limit: u32,
        lease: Lease,
        now: Timestamp,
    ) -> Result<Option<Claimed>, StoreError>;

    /// Makes deliveries due again whose leases have ended. Returns their webhooks.
    async fn free_leases(&self) -> Result<Vec<OwnedWebhook>, StoreError>;

    /// Makes every claimed delivery due again, whoever claimed it: for a hub that is alone with its store and just starts.
    async fn free_all_leases(&self) -> Result<(), StoreError>;
}

/// Outcomes of deliveries, recoveries, and what workers ask about the queue.
#[async_trait]
pub trait DeliveryRecords: Send + Sync {
    /// Advances the oldest unfinished recovery by at most `limit` events. `None` if there is none, or another node is
    /// working on it.
    async fn advance_recovery(&self, limit: u32) -> Result<Option<Recovery>, StoreError>;

    /// Makes deliveries due again that `owner` has claimed, as if it had never claimed them.
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

    /// Active webhooks with pending deliveries, by id, starting after `after`.
    async fn webhooks_with_work(&self, after: Option<WebhookId>, limit: u32) -> Result<Vec<OwnedWebhook>, StoreError>;

    /// The earliest due time of a pending delivery of an active webhook.
    async fn oldest_due(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Number of deliveries that are pending or in flight.
    async fn pending_deliveries(&self) -> Result<u64, StoreError>;

    /// Every webhook's sealed secrets: the current one, and the one before.
    async fn webhook_secrets(&self) -> Result<Vec<(WebhookId, Vec<u8>, Option<Vec<u8>>)>, StoreError>;

    /// Replaces a webhook's sealed secrets, if the current one is still `was`.
    async fn reseal_secret(
        &self,
        id: WebhookId,
        was: &[u8],
        secret: &[u8],
        previous: Option<&[u8]>,
    ) -> Result<(), StoreError>;
}

/// A node's heartbeat in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeBeat {
    /// The node.
    pub node: NodeId,
    /// Whether it exchanges messages with the other nodes over Redis.
    pub on_bus: bool,
    /// Number of connections on the node.
    pub connections: usize,
    /// Number of users online on the node.
    pub users: usize,
}

/// What the store tells a node that writes its heartbeat.
#[derive(Debug, Default)]
pub struct Heartbeats {
    /// The other nodes that are alive.
    pub others: Vec<NodeBeat>,
    /// The time by the database's clock; `None` if it has no other clock than the node.
    pub now: Option<Timestamp>,
}

/// The nodes that serve this store. It finds nodes that nothing else finds: a node that is cut off from the bus still
/// commits events.
#[async_trait]
pub trait NodeStore: Send + Sync {
    /// Writes this node's heartbeat. Returns those of other nodes within [`NODE_LIFE`].
    async fn beat(&self, own: &NodeBeat) -> Result<Heartbeats, StoreError>;

    /// Removes a node that stops.
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
    /// Applies all pending migrations. Returns their names.
    async fn migrate(&self) -> Result<Vec<String>, StoreError>;

    /// Lets a login of the database server be the nodes' one.
    ///
    /// # Errors
    /// [`StoreError::Setup`] where there is no such login, or an embedded store, which has none.
    async fn grant_to(&self, login: &str) -> Result<(), StoreError>;

    /// Checks that the schema is the one this binary was built for.
    ///
    /// # Errors
    /// [`StoreError::Outdated`] if it is not.
    async fn check_schema(&self) -> Result<(), StoreError>;

    /// The store's id. It stays the same for as long as its offsets mean the same.
    async fn epoch(&self) -> Result<Arc<str>, StoreError>;

    /// Takes a new epoch, for a store that was restored from a backup or came back older than it was. With `expected` only
    /// if the epoch is still that one, so that several nodes take one together. Returns the epoch.
    async fn renew_epoch(&self, expected: Option<&str>) -> Result<Arc<str>, StoreError>;

    /// Runs a trivial query.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Writes what is there already, as the writer would.
    ///
    /// # Errors
    /// Why nothing can be written.
    async fn try_writing(&self) -> Result<(), StoreError>;

    /// What the store says of itself. `connections`: as many as a hub wants.
    async fn facts(&self, connections: u32) -> Result<StoreFacts, StoreError>;

    /// Size of the write-ahead log, where the store has one of its own.
    fn log_bytes(&self) -> Option<u64> {
        None
    }

    /// Its connections now.
    fn pool(&self) -> Pool;

    /// A query passed its deadline. For a while, connections must answer a ping before they return to the pool.
    fn suspect_connections(&self) {}

    /// Closes all connections.
    async fn close(&self);
}

/// Runs a query under a deadline of 15 s. Without it, a database host that vanishes would hang the query until TCP
/// gives up, which takes minutes.
///
/// # Errors
/// [`StoreError::Unavailable`] after [`DEADLINE`]. Whether the query took effect is unknown.
pub async fn within_deadline<T, E: From<StoreError>>(
    store: &dyn Store,
    question: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    before(store, Instant::now() + DEADLINE, question).await
}

/// Runs a query until a moment.
///
/// # Errors
/// [`StoreError::Unavailable`] then. Whether the query took effect is unknown.
pub async fn before<T, E: From<StoreError>>(
    store: &dyn Store,
    moment: Instant,
    question: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::pin!(question);
    tokio::time::timeout_at(moment, &mut question).await.unwrap_or_else(|_| {
        store.suspect_connections();
        Err(StoreError::no_answer().into())
    })
}

/// A short random id for a store: base 36, 8 characters.
fn new_epoch() -> String {
    const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    (0..8).map(|_| char::from(DIGITS[rand::random_range(0..DIGITS.len())])).collect()
}

/// An IP address as text, in the form that both databases take.
fn ip_text(ip: Option<IpAddr>) -> Option<String> {
    ip.map(|ip| ip.to_string())
}
