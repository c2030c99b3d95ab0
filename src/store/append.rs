//! What may be written: whole operations, each with its state, its events and its answer, all of it or nothing.

use std::{net::IpAddr, sync::Arc};

use oriva_hub_actors::{
    model::{
        AppId, Category, EventId, EventType, JsonObject, NotificationId, Timestamp, TraceParent, UserId, WebhookId,
    },
    protocol::PublishedEvent,
};

use super::notification::{Change, ChangeError, NewNotification, NotificationRecord};

/// A validated event that is not yet stored.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub id: EventId,
    pub app_id: AppId,
    pub from_platform: bool,
    /// `None` in a broadcast.
    pub user_id: Option<UserId>,
    pub category: Category,
    pub event_type: EventType,
    pub entity_type: String,
    pub entity_id: String,
    pub data: JsonObject,
    pub timestamp: Timestamp,
}

/// Where a request came from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Who an audit row names: an app's id, `user:` and a user's id, or `hub`.
    pub actor: String,
    pub ip: Option<IpAddr>,
    pub user_agent: Option<Arc<str>>,
    /// What it is part of, where that is traced.
    pub trace: Option<TraceParent>,
}

/// What one request wants written, all of it or nothing.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Whose request it is: the claim's key is this app's own.
    pub app_id: AppId,
    pub origin: Origin,
    pub work: Work,
    pub claim: Option<IdempotencyClaim>,
}

/// An operation.
#[derive(Debug, Clone)]
pub enum Work {
    Publish {
        events: Vec<NewEvent>,
        receipt: Receipt,
    },
    Create(Creation),
    Change(Change),
    /// By the app that owns it.
    Delete {
        id: NotificationId,
        owner: AppId,
    },
    ReadAll(ReadAll),
    /// Ends at most `limit` notifications whose time was over at `until`.
    Expire {
        until: Timestamp,
        limit: u32,
    },
}

/// Notifications to be created by one app.
#[derive(Debug, Clone)]
pub struct Creation {
    pub from_platform: bool,
    /// The items of the request: a notification, or its error as JSON.
    pub slots: Vec<Result<NewNotification, String>>,
    pub is_batch: bool,
    /// The error, as JSON, of an item of a batch whose external id is another notification's.
    pub duplicate: fn(NotificationId) -> String,
}

/// At most `limit` of a user's unread notifications become read.
#[derive(Debug, Clone)]
pub struct ReadAll {
    pub user: UserId,
    /// Those of this app alone.
    pub app: Option<AppId>,
    /// Those created before this moment alone.
    pub before: Option<Timestamp>,
    pub limit: u32,
}

/// An `Idempotency-Key` and what it stands for (contract §4).
#[derive(Debug, Clone)]
pub struct IdempotencyClaim {
    pub key: String,
    /// SHA-256 of route and body.
    pub request_hash: [u8; 32],
    pub expires_at: Timestamp,
}

/// The shape of an answer to a publisher, so that a store can keep it in the transaction that makes it true.
#[derive(Debug, Clone)]
pub enum Receipt {
    One,
    /// One slot an item of the batch: `None` for an event that is written, or the item's error as JSON.
    Batch(Vec<Option<String>>),
}

/// What became of a submission, and the events that tell of it.
#[derive(Debug, Clone)]
pub struct Appended {
    pub events: Vec<Arc<PublishedEvent>>,
    /// Webhooks that got deliveries.
    pub enqueued_for: Vec<WebhookId>,
    pub outcome: Outcome,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    /// Published or created. The answer is a JSON text.
    Written {
        answer: String,
    },
    /// The key was claimed by an earlier request with the same content, which was answered so.
    Replayed {
        answer: String,
    },
    /// The key was claimed by an earlier request with other content.
    Mismatch,
    /// The one notification to be created has an external id that is this one's already.
    Duplicate(NotificationId),
    /// How a notification stands, changed or not.
    Changed(Box<NotificationRecord>),
    /// So many were changed, or deleted.
    Done(u64),
    Rejected(ChangeError),
}

impl Submission {
    /// The hub's own: at most `limit` notifications whose time was over at `until` end.
    #[must_use]
    pub fn expiry(until: Timestamp, limit: u32) -> Self {
        Self {
            app_id: AppId::hub(),
            origin: Origin { actor: "hub".to_owned(), ip: None, user_agent: None, trace: None },
            work: Work::Expire { until, limit },
            claim: None,
        }
    }
}

impl Work {
    /// Events that it may write at most: what the writer's bounds count.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Publish { events, .. } => events.len(),
            Self::Create(creation) => creation.slots.len(),
            Self::Change(_) | Self::Delete { .. } => 1,
            Self::ReadAll(ReadAll { limit, .. }) | Self::Expire { limit, .. } => *limit as usize,
        }
    }

    /// The order of work within a transaction, the same on every node, so that nodes lock in the same order; and the
    /// order of the events. Changes before expiries: a dismissal beats an expiry at the same moment.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Publish { .. } => 0,
            Self::Create(_) => 1,
            Self::Change(_) => 2,
            Self::Delete { .. } => 3,
            Self::ReadAll(_) => 4,
            Self::Expire { .. } => 5,
        }
    }
}
