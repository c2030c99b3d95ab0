//! Notifications: their content, their state with the user, and what can be asked of a feed.

use std::sync::Arc;

use oriva_hub_actors::model::{
    AppId, Category, EventId, EventType, Invalid, JsonObject, NotificationId, Offset, Timestamp, UserId,
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    event::NewEvent,
    status::{InvalidTransition, Status},
};

/// The priority of a notification. A feed is sorted by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Shown last.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Shown before the usual.
    High,
    /// Shown first.
    Urgent,
}

impl Priority {
    /// Every priority, lowest first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Urgent];

    /// The name, as clients write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Urgent => "urgent",
        }
    }

    /// 0 low to 3 urgent: a feed is sorted by it, highest first.
    #[must_use]
    pub const fn urgency(self) -> i16 {
        self as i16
    }

    /// Parses a priority's name; `critical` is `urgent`.
    ///
    /// # Errors
    /// [`Invalid`] with the names.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let name = if text == "critical" { "urgent" } else { text };
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_str() == name)
            .ok_or_else(|| Invalid("must be one of low, normal, high, urgent".to_owned()))
    }
}

/// The content of a notification. Validated, and never changed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Content {
    /// The app's own id for it, unique within the app.
    pub external_id: Option<String>,
    /// The app's own kind of notification.
    pub notification_type: String,
    /// Plain text.
    pub title: String,
    /// Plain text.
    pub body: String,
    /// Where it stands in a feed.
    pub priority: Priority,
    /// Opened when the user clicks.
    pub action_url: Option<String>,
    /// The label of the button that opens `action_url`.
    pub action_label: Option<String>,
    /// Shown beside the text.
    pub image_url: Option<String>,
    /// Shown beside the title.
    pub icon_url: Option<String>,
    /// Data of the app's own: at most 64 KiB of JSON.
    pub context_data: JsonObject,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// A validated notification that is not yet stored. The content may be shared by many users'.
#[derive(Debug, Clone)]
pub struct NewNotification {
    /// Its id.
    pub id: NotificationId,
    /// The user that it is for.
    pub user_id: UserId,
    /// What it says.
    pub content: Arc<Content>,
}

/// The state of a notification with its user.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct NotificationState {
    /// Its status.
    pub status: Status,
    /// When it was first sent to a socket of the user.
    pub delivered_at: Option<Timestamp>,
    /// When it was first read.
    pub read_at: Option<Timestamp>,
    /// When it was dismissed.
    pub dismissed_at: Option<Timestamp>,
    /// When it was first clicked.
    pub clicked_at: Option<Timestamp>,
    /// When it expired.
    pub expired_at: Option<Timestamp>,
    /// Where it was dismissed.
    pub dismissed_from: Option<String>,
    /// What was clicked.
    pub click_action: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// A notification's owner and state: all that a change needs to know, and what it answers.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct NotificationRecord {
    /// Its id.
    #[serde(rename = "notification_id")]
    pub id: NotificationId,
    /// The app that created it.
    pub app_id: AppId,
    /// The user that it is for.
    pub user_id: UserId,
    /// The app's own id for it.
    pub external_id: Option<String>,
    /// What became of it.
    #[serde(flatten)]
    pub state: NotificationState,
    /// Whether a platform app created it.
    #[serde(skip)]
    pub from_platform: bool,
}

/// A notification as feeds show it.
#[derive(Debug, Clone)]
pub struct Notification {
    /// Its id.
    pub id: NotificationId,
    /// The app that created it.
    pub app_id: AppId,
    /// The user that it is for.
    pub user_id: UserId,
    /// What it says.
    pub content: Content,
    /// What became of it.
    pub state: NotificationState,
}

/// The notifications that a caller may see and change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessScope {
    /// `None`: any user's.
    pub user: Option<UserId>,
    /// `None`: from all apps.
    pub app: Option<AppId>,
}

impl AccessScope {
    /// Whether a notification of this app for this user may be seen.
    #[must_use]
    pub fn covers(&self, app: &AppId, user: &UserId) -> bool {
        self.app.as_ref().is_none_or(|own| own == app) && self.user.as_ref().is_none_or(|own| own == user)
    }
}

/// A requested change of a notification's status.
#[derive(Debug, Clone)]
pub struct Change {
    /// The notification.
    pub id: NotificationId,
    /// What the caller may touch.
    pub scope: AccessScope,
    /// The new status.
    pub to: Status,
    /// Stored if the change is a dismissal.
    pub dismissed_from: Option<String>,
    /// Stored if the change is a click.
    pub click_action: Option<String>,
    /// Merged into the event's data. The event's own fields win.
    pub metadata: JsonObject,
}

impl Change {
    /// About how much memory its longest part takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.metadata.as_str().len()
    }
}

/// Why a notification was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeError {
    /// There is none with this id.
    NotFound,
    /// It exists, but is outside of the caller's scope.
    NotInScope,
    /// Its status does not change so.
    Invalid(InvalidTransition),
}

/// The result of looking up one notification.
#[derive(Debug)]
pub enum Lookup {
    /// It is there, and the caller may see it.
    Found(Box<Notification>),
    /// There is none with this id.
    NotFound,
    /// It is another app's or user's.
    NotInScope,
}

/// A position in a feed: the last notification of the page before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedPosition {
    /// Its priority as a number.
    pub urgency: i16,
    /// When it was created.
    pub created_at: Timestamp,
    /// Its id.
    pub id: NotificationId,
}

/// Filters of a feed.
#[derive(Debug, Clone)]
pub struct FeedFilter {
    /// Only with one of these statuses.
    pub statuses: Vec<Status>,
    /// Only of this app.
    pub app: Option<AppId>,
    /// Only of this type.
    pub notification_type: Option<String>,
    /// Only with one of these priorities; empty: with any.
    pub priorities: Vec<Priority>,
    /// Created at this moment or later.
    pub since: Option<Timestamp>,
    /// Created at this moment or earlier.
    pub until: Option<Timestamp>,
    /// Greatest number of notifications.
    pub limit: u32,
    /// Notifications to pass over.
    pub offset: u64,
    /// Only after this position.
    pub after: Option<FeedPosition>,
}

/// A page of a feed: urgent to low, then newest first.
#[derive(Debug)]
pub struct FeedPage {
    /// One page.
    pub notifications: Vec<Notification>,
    /// The number of matching notifications, counted up to one above the cap.
    pub total: u64,
    /// The user's unread notifications in the scope, whatever the filter.
    pub unread: UnreadCount,
}

/// A number of unread notifications, and how long it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnreadCount {
    /// The number.
    pub count: u64,
    /// How long it holds.
    pub validity: Validity,
}

/// How long a count of a user's notifications holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The head of the user's stream when they were counted. Every change of a notification raises it.
    pub head: Offset,
    /// When the first of them expires, which is before the stream tells of it.
    pub next_expiry: Option<Timestamp>,
}

impl Validity {
    /// Whether counting again would give the same, at this head and moment.
    #[must_use]
    pub fn holds(&self, head: Offset, now: Timestamp) -> bool {
        self.head == head && self.next_expiry.is_none_or(|expiry| expiry > now)
    }
}

/// A notification that a socket of its user was sent.
#[derive(Debug, Clone)]
pub struct DeliveryReceipt {
    /// The notification.
    pub id: NotificationId,
    /// The app that created it.
    pub app_id: AppId,
    /// The user that it is for.
    pub user_id: UserId,
    /// When a socket was sent it first.
    pub at: Timestamp,
}

impl Content {
    /// Bytes of its longest parts.
    pub(super) fn bytes(&self) -> usize {
        let urls = [&self.action_url, &self.image_url, &self.icon_url];
        let urls: usize = urls.into_iter().flatten().map(String::len).sum();
        self.title.len() + self.body.len() + self.context_data.as_str().len() + urls
    }
}

impl NewNotification {
    /// The record of a new notification.
    #[must_use]
    pub(super) fn record(&self, app: &AppId, from_platform: bool, now: Timestamp) -> NotificationRecord {
        NotificationRecord {
            id: self.id,
            app_id: app.clone(),
            user_id: self.user_id.clone(),
            external_id: self.content.external_id.clone(),
            state: NotificationState::new(now),
            from_platform,
        }
    }

    /// `notification.created`. It has the content, so that a client can show it without a request.
    pub(super) fn created_event(&self, record: &NotificationRecord, now: Timestamp) -> NewEvent {
        #[derive(Serialize)]
        struct Data<'a> {
            notification_id: NotificationId,
            status: Status,
            #[serde(flatten)]
            content: &'a Content,
            created_at: Timestamp,
        }
        let data =
            Data { notification_id: self.id, status: record.state.status, content: &self.content, created_at: now };
        record.event("created", JsonObject::encode(&data), now)
    }
}

impl NotificationState {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            status: Status::Unread,
            delivered_at: None,
            read_at: None,
            dismissed_at: None,
            clicked_at: None,
            expired_at: None,
            dismissed_from: None,
            click_action: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// Changes the status to `to`. Returns whether that changed anything. A moment that is set stays.
    fn transition(
        &mut self,
        to: Status,
        dismissed_from: Option<&str>,
        click_action: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, InvalidTransition> {
        if !self.status.transition(to)? {
            return Ok(false);
        }
        self.status = to;
        self.updated_at = now;
        match to {
            Status::Unread => {}
            Status::Read => {
                self.read_at.get_or_insert(now);
            }
            Status::Clicked => {
                self.clicked_at.get_or_insert(now);
                self.read_at.get_or_insert(now);
                self.click_action = click_action.map(str::to_owned);
            }
            Status::Dismissed => {
                self.dismissed_at.get_or_insert(now);
                self.dismissed_from = dismissed_from.map(str::to_owned);
            }
            Status::Expired => {
                self.expired_at.get_or_insert(now);
            }
        }
        Ok(true)
    }
}

impl NotificationRecord {
    /// Applies a change. Returns the event that tells of it, or `None` if nothing changed.
    ///
    /// # Errors
    /// [`ChangeError`]. The record is unchanged then.
    pub(super) fn change(&mut self, change: &Change, now: Timestamp) -> Result<Option<NewEvent>, ChangeError> {
        if !change.scope.covers(&self.app_id, &self.user_id) {
            return Err(ChangeError::NotInScope);
        }
        let (from, action) = (change.dismissed_from.as_deref(), change.click_action.as_deref());
        let changed = self.state.transition(change.to, from, action, now).map_err(ChangeError::Invalid)?;
        Ok(changed.then(|| self.event_for(change.to.as_str(), &change.metadata, now)))
    }

    /// As [`Self::change`] for the hub's own changes. A record that cannot get the status `to` stays as it is.
    pub(super) fn transition_unchecked(&mut self, to: Status, now: Timestamp) -> Option<NewEvent> {
        let changed = self.state.transition(to, None, None, now).unwrap_or(false);
        changed.then(|| self.event_for(to.as_str(), &JsonObject::empty(), now))
    }

    /// Dismisses it without an event. Returns whether that changed anything.
    pub(super) fn dismiss_silently(&mut self, from: &AppId, now: Timestamp) -> bool {
        self.state.transition(Status::Dismissed, Some(from.as_str()), None, now).unwrap_or(false)
    }

    /// `notification.deleted`.
    pub(super) fn deleted_event(&self, now: Timestamp) -> NewEvent {
        self.event_for("deleted", &JsonObject::empty(), now)
    }

    fn event_for(&self, event_type: &str, metadata: &JsonObject, now: Timestamp) -> NewEvent {
        let mut data = Map::new();
        data.insert("notification_id".to_owned(), Value::String(self.id.to_string()));
        data.insert("external_id".to_owned(), self.external_id.clone().map_or(Value::Null, Value::String));
        data.insert("status".to_owned(), Value::String(self.state.status.as_str().to_owned()));
        match (event_type, &self.state.dismissed_from, &self.state.click_action) {
            ("dismissed", Some(from), _) => {
                data.insert("dismissed_from".to_owned(), Value::String(from.clone()));
            }
            ("clicked", _, Some(action)) => {
                data.insert("click_action".to_owned(), Value::String(action.clone()));
            }
            _ => {}
        }
        self.event(event_type, metadata.with_fields(&data), now)
    }

    fn event(&self, event_type: &str, data: JsonObject, now: Timestamp) -> NewEvent {
        NewEvent {
            id: EventId::generate(),
            app_id: self.app_id.clone(),
            from_platform: self.from_platform,
            user_id: Some(self.user_id.clone()),
            category: Category::Notification,
            event_type: EventType::from_store(event_type),
            entity_type: "notification".to_owned(),
            entity_id: self.id.to_string(),
            data,
            timestamp: now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> NotificationRecord {
        let user = UserId::parse("alice").unwrap();
        let content = Content {
            external_id: Some("x1".to_owned()),
            notification_type: "general".to_owned(),
            title: "t".to_owned(),
            body: "b".to_owned(),
            priority: Priority::Normal,
            action_url: None,
            action_label: None,
            image_url: None,
            icon_url: None,
            context_data: JsonObject::empty(),
            expires_at: None,
        };
        let new = NewNotification { id: NotificationId::generate(), user_id: user, content: Arc::new(content) };
        new.record(&AppId::parse("work-buddy").unwrap(), false, at(0))
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn change(to: Status, metadata: Value) -> Change {
        let metadata = JsonObject::encode(&metadata);
        Change {
            id: NotificationId::generate(),
            scope: AccessScope { user: None, app: None },
            to,
            dismissed_from: Some("core".to_owned()),
            click_action: Some("open".to_owned()),
            metadata,
        }
    }

    #[test]
    fn a_click_reads_too_and_a_set_moment_stays() {
        let mut record = record();
        let none = serde_json::json!({});
        record.change(&change(Status::Read, none.clone()), at(1)).unwrap();
        let event = record.change(&change(Status::Clicked, none.clone()), at(2)).unwrap().unwrap();
        assert_eq!((record.state.read_at, record.state.clicked_at), (Some(at(1)), Some(at(2))));
        let data: Value = serde_json::from_str(event.data.as_str()).unwrap();
        assert_eq!((&data["click_action"], &data["external_id"]), (&"open".into(), &"x1".into()));
        assert!(record.change(&change(Status::Clicked, none.clone()), at(3)).unwrap().is_none());
        record.change(&change(Status::Dismissed, none), at(4)).unwrap();
        assert_eq!(record.state.clicked_at, Some(at(2)));
        assert_eq!(record.state.dismissed_from.as_deref(), Some("core"));
    }

    #[test]
    fn metadata_stands_beside_the_events_own_fields_and_never_over_them() {
        let metadata = serde_json::json!({"status": "forged", "notification_id": 1, "why": "done"});
        let event = record().change(&change(Status::Dismissed, metadata), at(1)).unwrap().unwrap();
        let data: Value = serde_json::from_str(event.data.as_str()).unwrap();
        assert_eq!((&data["status"], &data["why"]), (&"dismissed".into(), &"done".into()));
        assert_eq!(data["dismissed_from"], "core");
        assert_eq!(data["notification_id"], event.entity_id);
    }

    #[test]
    fn what_is_out_of_reach_is_not_touched() {
        let mut record = record();
        let mut change = change(Status::Read, serde_json::json!({}));
        change.scope.app = Some(AppId::parse("other").unwrap());
        assert_eq!(record.change(&change, at(1)).unwrap_err(), ChangeError::NotInScope);
        change.scope = AccessScope { user: Some(UserId::parse("bob").unwrap()), app: None };
        assert_eq!(record.change(&change, at(1)).unwrap_err(), ChangeError::NotInScope);
        assert_eq!(record.state.status, Status::Unread);
    }

    #[test]
    fn a_dismissal_is_not_expired_afterwards() {
        let mut record = record();
        record.change(&change(Status::Dismissed, serde_json::json!({})), at(1)).unwrap();
        assert!(record.transition_unchecked(Status::Expired, at(1)).is_none());
        assert_eq!(record.state.status, Status::Dismissed);
    }
}
