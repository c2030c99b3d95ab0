//! Schemas of bodies and query strings for the OpenAPI document. The parsers stand with their handlers, because they
//! report all faults at once. A public fuzzer compares both (`tests/it/openapi.rs`).

#![expect(dead_code, reason = "shapes for the document alone")]

use oriva_hub_actors::{
    model::{AppId, Category, EventType, JsonObject, Timestamp, UserId},
    ports::PayloadForm,
};
use utoipa::{IntoParams, ToSchema};

use crate::store::{DeliveryStatus, Status};

/// An event to publish: for one user, or a broadcast.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum EventInput {
    /// An event for one user.
    ForUser(EventForUser),
    /// An event for all users.
    Broadcast(Broadcast),
}

macro_rules! event_shape {
    ($(#[$doc:meta])* $name:ident { $whose:ident: $type:ty }) => {
        $(#[$doc])*
        #[derive(ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $whose: $type,
            event_category: Category,
            /// Bare, or with its category before it.
            event_type: EventType,
            #[schema(min_length = 1, max_length = 100, example = "task")]
            entity_type: String,
            #[schema(min_length = 1, max_length = 255, example = "42")]
            entity_id: String,
            /// At most 64 KiB encoded.
            event_data: Option<JsonObject>,
        }
    };
}
event_shape! {
    /// An event for one user.
    EventForUser { user_id: UserId }
}
event_shape! {
    /// An event for every user in the app's scope. A platform app's is for all users.
    Broadcast { audience: Audience }
}

/// The users that a broadcast is for.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// All users in the app's scope.
    All,
}

/// Up to 1,000 events. An invalid one gets its error in its place of the answer; the others are published.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventBatch {
    #[schema(min_items = 1, max_items = 1000)]
    events: Vec<EventInput>,
}

/// Filters for events.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    event_category: Option<Category>,
    /// Bare, or with its category before it.
    #[param(min_length = 1, max_length = 128)]
    event_type: Option<String>,
    user_id: Option<UserId>,
    #[param(min_length = 1, max_length = 255)]
    entity_id: Option<String>,
    /// Only events with this `timestamp` or a later one.
    start_date: Option<Timestamp>,
    /// Only events with this `timestamp` or an earlier one.
    end_date: Option<Timestamp>,
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<u32>,
    /// Rows to skip: for small lists. `cursor` costs the same however deep.
    #[param(minimum = 0, maximum = 4611686018427387903_i64, default = 0)]
    offset: Option<u64>,
    /// The `next_cursor` of the page before; not with `offset`.
    cursor: Option<String>,
}

/// The priority of a notification. `critical` is the same as `urgent`.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AskedPriority {
    /// Shown last.
    Low,
    /// The usual.
    Normal,
    /// Shown before the usual.
    High,
    /// Shown first.
    Urgent,
    /// Another name for `urgent`.
    Critical,
}

macro_rules! notification_shape {
    ($(#[$doc:meta])* $name:ident { $($(#[$own:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        ///
        /// Lengths are of what is left once tags are taken out, in Unicode characters.
        #[derive(ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$own])* $field: $type,)*
            /// Plain text, one line.
            #[schema(min_length = 1, max_length = 200, example = "Lunch?")]
            title: String,
            /// Plain text.
            #[schema(min_length = 1, max_length = 1000, example = "At one, in the yard")]
            body: String,
            /// Default: `normal`.
            priority: Option<AskedPriority>,
            /// Default: `general`. `category` is an alias.
            #[schema(min_length = 1, max_length = 100)]
            notification_type: Option<String>,
            /// Absolute, any scheme but `javascript`, `data`, `vbscript` and `file`.
            #[schema(max_length = 2048, format = "uri", example = "app://orders/42")]
            action_url: Option<String>,
            /// Plain text.
            #[schema(max_length = 50)]
            action_label: Option<String>,
            /// Absolute, http or https.
            #[schema(max_length = 2048, format = "uri", example = "https://example.com/image.png")]
            image_url: Option<String>,
            /// Absolute, http or https.
            #[schema(max_length = 2048, format = "uri", example = "https://example.com/icon.png")]
            icon_url: Option<String>,
            /// At most 64 KiB encoded. `metadata` is another name for it.
            context_data: Option<JsonObject>,
            /// Must be in the future.
            #[schema(example = "2126-01-02T03:04:05.678Z")]
            expires_at: Option<Timestamp>,
        }
    };
}
notification_shape! {
    /// A notification to create.
    NotificationInput {
        user_id: UserId,
        /// Unique within the app.
        #[schema(min_length = 1, max_length = 255)]
        external_id: Option<String>,
    }
}
notification_shape! {
    /// One content for many users. Each gets a notification of their own.
    SharedNotification {
        #[schema(min_items = 1, max_items = 1000)]
        user_ids: Vec<UserId>,
    }
}

/// Up to 1,000 notifications: each with its own content, or one content for many users.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum NotificationBatch {
    /// A notification of its own for each user.
    OneByOne(NotificationList),
    /// One content for many users.
    Shared(SharedNotification),
}

/// Up to 1,000 notifications. An invalid one gets its error in its place of the answer; the others are created.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NotificationList {
    #[schema(min_items = 1, max_items = 1000)]
    notifications: Vec<NotificationInput>,
}

/// Filters for notifications.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FeedQuery {
    /// May be repeated. Default: all but `expired`.
    status: Option<Vec<Status>>,
    app_id: Option<AppId>,
    #[param(min_length = 1, max_length = 100)]
    notification_type: Option<String>,
    /// May be repeated.
    priority: Option<Vec<AskedPriority>>,
    /// Only notifications created at this moment or later. A notification can become visible up to 15 s after its
    /// `created_at`. To poll, ask again from one minute before the newest `created_at` that you have, and skip ids you know.
    since: Option<Timestamp>,
    /// Only notifications created at this moment or earlier.
    until: Option<Timestamp>,
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<u32>,
    /// Rows to skip: for small lists. `cursor` costs the same however deep.
    #[param(minimum = 0, maximum = 4611686018427387903_i64, default = 0)]
    offset: Option<u64>,
    /// The `next_cursor` of the page before; not with `offset`.
    cursor: Option<String>,
}

/// A change of a notification's status.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NotificationChange {
    status: Status,
    /// Default: the caller's app.
    #[schema(min_length = 1, max_length = 255)]
    dismissed_from: Option<String>,
    #[schema(min_length = 1, max_length = 255)]
    click_action: Option<String>,
    /// Added to the event's data. At most 64 KiB encoded.
    metadata: Option<JsonObject>,
}

/// Which notifications to mark as read. Default: all unread ones.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadAll {
    app_id: Option<AppId>,
    /// Only notifications created before this moment.
    before: Option<Timestamp>,
}

/// A pattern for event types. `*` matches one segment, a final `.**` one or more, and `*` or `**` alone everything. A category
/// alone is the same as with `.*`.
#[derive(ToSchema)]
#[schema(
    pattern = r"^(\*\*?|(\*|[a-z0-9_]+)(\.(\*|[a-z0-9_]+))*(\.\*\*)?)$",
    max_length = 128,
    example = "notification.*"
)]
pub struct EventPattern(String);

/// A webhook to register.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookInput {
    /// An HTTPS URL at a public address, without credentials or fragment. The operator may allow more.
    #[schema(max_length = 2048, format = "uri", example = "https://example.com/hook")]
    webhook_url: String,
    #[schema(min_items = 1, max_items = 100)]
    subscribed_events: Vec<EventPattern>,
    #[schema(max_length = 500)]
    description: Option<String>,
    /// Greatest number of attempts after the first.
    #[schema(minimum = 1, maximum = 10, default = 5)]
    max_retries: Option<u16>,
    /// Seconds before the first retry. Doubled for each further retry.
    #[schema(minimum = 1, maximum = 60, default = 1)]
    retry_backoff_seconds: Option<u16>,
    /// What bodies tell. `full` has the event's data twice, `no_data` once, `thin` not at all.
    #[schema(default = "full")]
    payload: Option<PayloadForm>,
}

/// A change of a webhook. Absent fields stay as they are.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookChange {
    #[schema(max_length = 2048, format = "uri", example = "https://example.com/hook")]
    webhook_url: Option<String>,
    #[schema(min_items = 1, max_items = 100, nullable = false)]
    subscribed_events: Option<Vec<EventPattern>>,
    /// `true` resets `consecutive_failures`.
    is_active: Option<bool>,
    /// `null` takes it away.
    #[schema(max_length = 500)]
    description: Option<String>,
    #[schema(minimum = 1, maximum = 10)]
    max_retries: Option<u16>,
    #[schema(minimum = 1, maximum = 60)]
    retry_backoff_seconds: Option<u16>,
    payload: Option<PayloadForm>,
}

/// The page of webhooks.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WebhookQuery {
    #[param(minimum = 1, maximum = 100, default = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Filters for deliveries.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeliveryQuery {
    status: Option<DeliveryStatus>,
    /// With its category before it.
    #[param(min_length = 1, max_length = 128)]
    event_type: Option<String>,
    since: Option<Timestamp>,
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The moment from which missed events are queued again.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoveryRequest {
    since: Timestamp,
}

/// The lifetime of a token.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    #[schema(minimum = 1, maximum = 86400, default = 3600)]
    ttl_seconds: Option<u32>,
}

/// An app to create.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppInput {
    app_id: AppId,
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$", example = "Work Buddy")]
    name: String,
    #[schema(max_length = 2048, format = "uri", example = "https://example.com/icon.png")]
    icon_url: Option<String>,
    /// A platform app reads and changes every user's notifications, from all apps.
    is_platform: Option<bool>,
    limits: Option<Limits>,
}

/// A change of an app. Absent fields stay as they are.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppChange {
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    name: Option<String>,
    /// `null` takes it away.
    #[schema(max_length = 2048, format = "uri", example = "https://example.com/icon.png")]
    icon_url: Option<String>,
    /// Requests of an inactive app are refused, and its sockets are closed.
    is_active: Option<bool>,
    is_platform: Option<bool>,
    limits: Option<Limits>,
}

/// Requests in one window, by class, instead of the configured limits.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[schema(minimum = 1, nullable = false)]
    publish: Option<u32>,
    #[schema(minimum = 1, nullable = false)]
    read: Option<u32>,
    #[schema(minimum = 1, nullable = false)]
    notify: Option<u32>,
    #[schema(minimum = 1, nullable = false)]
    webhooks: Option<u32>,
}

/// Filters for the audit log.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// `admin`, `cli`, `first-run`, `hub`, an app's id, or `user:` and a user's id.
    #[param(min_length = 1, max_length = 255)]
    actor: Option<String>,
    #[param(min_length = 1, max_length = 128)]
    action: Option<String>,
    /// The id of what it was done to.
    #[param(min_length = 1, max_length = 255)]
    subject: Option<String>,
    #[param(min_length = 1, max_length = 63)]
    app_id: Option<String>,
    /// Only entries of this moment or later ones.
    since: Option<Timestamp>,
    /// Only entries of this moment or earlier ones.
    until: Option<Timestamp>,
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}
