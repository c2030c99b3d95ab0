//! What can be written: operations, each with one outcome. An operation changes its rows, and appends the events that
//! tell of the change, in one transaction.

use std::{net::IpAddr, sync::Arc};

use oriva_hub_actors::{
    model::{AppId, NotificationId, OwnedWebhook, Timestamp, TraceParent, UserId},
    protocol::PublishedEvent,
};

use super::{
    event::NewEvent,
    notification::{Change, ChangeError, NewNotification, NotificationRecord},
    receipts::{BatchItem, EventReceipt, EventReceipts, ItemError, NotificationReceipt, NotificationReceipts},
};

/// Where a request came from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The actor that audit rows name: an app's id, `user:` and a user's id, or `hub`.
    pub actor: String,
    /// The client's address, if there was one.
    pub ip: Option<IpAddr>,
    /// The client's `User-Agent`.
    pub user_agent: Option<Arc<str>>,
    /// The trace that the request is part of, if any.
    pub trace: Option<TraceParent>,
}

/// One request to write. It is written whole or not at all.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The app that asks. Idempotency keys are unique within an app.
    pub app_id: AppId,
    /// Who asked, and from where.
    pub origin: Origin,
    /// What is to be written.
    pub work: Work,
    /// The idempotency key, if the request has one.
    pub claim: Option<IdempotencyClaim>,
}

/// An operation to be written. [`Operation`] ties each one to its outcome.
#[derive(Debug, Clone)]
pub enum Work {
    /// One event.
    Publish(Publish),
    /// Several events.
    PublishBatch(PublishBatch),
    /// One notification.
    Create(Create),
    /// Several notifications.
    CreateBatch(CreateBatch),
    /// A notification's status.
    Change(Change),
    /// One notification, by its owner.
    Delete(Delete),
    /// A user's unread notifications.
    ReadAll(ReadAll),
    /// Notifications whose time is over.
    Expire(Expire),
}

/// What became of an operation: the variant of the same name.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Of [`Work::Publish`].
    Publish(KeyedOutcome<EventReceipt>),
    /// Of [`Work::PublishBatch`].
    PublishBatch(KeyedOutcome<EventReceipts>),
    /// Of [`Work::Create`].
    Create(Result<KeyedOutcome<NotificationReceipt>, DuplicateExternalId>),
    /// Of [`Work::CreateBatch`].
    CreateBatch(KeyedOutcome<NotificationReceipts>),
    /// Of [`Work::Change`].
    Change(Result<Box<NotificationRecord>, ChangeError>),
    /// Of [`Work::Delete`].
    Delete(Result<(), ChangeError>),
    /// Of [`Work::ReadAll`].
    ReadAll(Progress),
    /// Of [`Work::Expire`].
    Expire(Progress),
}

/// An operation and the type of its outcome.
pub trait Operation: Send + 'static {
    /// What the operation comes to.
    type Outcome: Send;

    /// The operation as one of all kinds.
    fn into_work(self) -> Work;

    /// The outcome of this operation. `None` if it is another operation's.
    fn outcome(outcome: Outcome) -> Option<Self::Outcome>;
}

/// An operation that may be done once for an idempotency key.
pub trait KeyedOperation: Operation {}

impl KeyedOperation for Publish {}
impl KeyedOperation for PublishBatch {}
impl KeyedOperation for Create {}
impl KeyedOperation for CreateBatch {}

macro_rules! operations {
    ($($operation:ident => $outcome:ty;)*) => {$(
        impl Operation for $operation {
            type Outcome = $outcome;

            fn into_work(self) -> Work {
                Work::$operation(self)
            }

            fn outcome(outcome: Outcome) -> Option<Self::Outcome> {
                if let Outcome::$operation(outcome) = outcome { Some(outcome) } else { None }
            }
        }
    )*};
}
operations! {
    Publish => KeyedOutcome<EventReceipt>;
    PublishBatch => KeyedOutcome<EventReceipts>;
    Create => Result<KeyedOutcome<NotificationReceipt>, DuplicateExternalId>;
    CreateBatch => KeyedOutcome<NotificationReceipts>;
    Change => Result<Box<NotificationRecord>, ChangeError>;
    Delete => Result<(), ChangeError>;
    ReadAll => Progress;
    Expire => Progress;
}

/// Publishes one event.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The event.
    pub event: NewEvent,
}

/// Publishes the valid events of a batch.
#[derive(Debug, Clone)]
pub struct PublishBatch {
    /// The events, and an error in the place of each that is not valid.
    pub items: Vec<BatchItem<NewEvent>>,
}

/// Creates one notification.
#[derive(Debug, Clone)]
pub struct Create {
    /// Whether the app is a platform app.
    pub from_platform: bool,
    /// The notification.
    pub notification: NewNotification,
}

/// Creates the valid notifications of a batch.
#[derive(Debug, Clone)]
pub struct CreateBatch {
    /// Whether the app is a platform app.
    pub from_platform: bool,
    /// The notifications, and an error in the place of each that is not valid.
    pub items: Vec<BatchItem<NewNotification>>,
}

/// Deletes a notification for the app that owns it.
#[derive(Debug, Clone)]
pub struct Delete {
    /// The notification.
    pub id: NotificationId,
    /// The app that asks; only the owner may.
    pub owner: AppId,
}

/// Marks at most `limit` of a user's unread notifications as read.
#[derive(Debug, Clone)]
pub struct ReadAll {
    /// The user.
    pub user: UserId,
    /// Only those of this app.
    pub app: Option<AppId>,
    /// Only those created before this moment.
    pub before: Option<Timestamp>,
    /// Greatest number of notifications in this transaction.
    pub limit: u32,
}

/// Expires at most `limit` notifications whose `expires_at` is `until` or earlier.
#[derive(Debug, Clone)]
pub struct Expire {
    /// The moment, usually the present.
    pub until: Timestamp,
    /// Greatest number of notifications in this transaction.
    pub limit: u32,
}

/// An `Idempotency-Key` and the request that it stands for (contract §4).
#[derive(Debug, Clone)]
pub struct IdempotencyClaim {
    /// The key, unique within its app.
    pub key: String,
    /// SHA-256 of route and body.
    pub request_hash: [u8; 32],
    /// When the claim and its answer may be forgotten.
    pub expires_at: Timestamp,
}

/// The outcome of a [`KeyedOperation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyedOutcome<T> {
    /// This request did it.
    Done(T),
    /// An earlier request under this key did it, with this result.
    Replayed(T),
    /// An earlier request under this key had another route or body.
    Mismatch,
}

/// The external id of a new notification belongs to this one already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuplicateExternalId(pub NotificationId);

/// The outcome of an operation over many notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Number of notifications changed.
    pub changed: u64,
    /// False if the limit was reached, so more may be left.
    pub is_complete: bool,
}

/// What one submission wrote.
#[derive(Debug, Clone)]
pub struct Appended {
    /// The events, with their offsets.
    pub events: Vec<Arc<PublishedEvent>>,
    /// Webhooks that got deliveries.
    pub enqueued_for: Vec<OwnedWebhook>,
    /// The outcome, of the operation's own type.
    pub outcome: Outcome,
}

impl Origin {
    /// The hub itself: nobody asked.
    #[must_use]
    pub fn hub() -> Self {
        Self { actor: "hub".to_owned(), ip: None, user_agent: None, trace: None }
    }
}

impl Submission {
    /// An operation that takes no idempotency key.
    #[must_use]
    pub fn new(app: &AppId, origin: Origin, operation: impl Operation) -> Self {
        Self { app_id: app.clone(), origin, work: operation.into_work(), claim: None }
    }
}

impl Work {
    /// The greatest number of events that this may append. The writer bounds its queue and its transactions by it.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::PublishBatch(PublishBatch { items }) => items.len(),
            Self::CreateBatch(CreateBatch { items, .. }) => items.len(),
            Self::Publish(_) | Self::Create(_) | Self::Change(_) | Self::Delete(_) => 1,
            Self::ReadAll(ReadAll { limit, .. }) | Self::Expire(Expire { limit, .. }) => *limit as usize,
        }
    }

    /// About how much memory the operation's data takes, in bytes. The writer bounds its queue and its transactions by it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Publish(Publish { event }) => event.bytes(),
            Self::PublishBatch(PublishBatch { items }) => batch_bytes(items, NewEvent::bytes),
            Self::Create(Create { notification, .. }) => notification.content.bytes(),
            Self::CreateBatch(CreateBatch { items, .. }) => batch_bytes(items, |new| new.content.bytes()),
            Self::Change(change) => change.bytes(),
            Self::Delete(_) | Self::ReadAll(_) | Self::Expire(_) => 0,
        }
    }

    /// The order of operations within a transaction. It decides which of two changes to one notification comes first:
    /// a dismissal wins over an expiry at the same moment.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Publish(_) | Self::PublishBatch(_) => 0,
            Self::Create(_) | Self::CreateBatch(_) => 1,
            Self::Change(_) => 2,
            Self::Delete(_) => 3,
            Self::ReadAll(_) => 4,
            Self::Expire(_) => 5,
        }
    }
}

fn batch_bytes<T>(items: &[BatchItem<T>], bytes: impl Fn(&T) -> usize) -> usize {
    items.iter().map(|item| item.as_ref().map_or_else(ItemError::bytes, &bytes)).sum()
}
