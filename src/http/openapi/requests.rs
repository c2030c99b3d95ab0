//! Bodies and query strings, as the document describes them. What takes them apart names every fault at once and stands
//! with its handler; a public fuzzer holds both against each other (`tests/it/openapi.rs`).

#![expect(dead_code, reason = "shapes for the document alone")]

use oriva_hub_actors::model::{AppId, Category, EventType, JsonObject, Timestamp, UserId};
use utoipa::{IntoParams, ToSchema};

use crate::store::{DeliveryStatus, Status};

/// An event to publish: one user's, or everybody's.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum NewEvent {
    ForUser(EventForUser),
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
    /// An event for every user in the app's scope; a platform app's, for every user.
    Broadcast { audience: Audience }
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    All,
}

/// Up to a thousand events. One that breaks a rule is answered in its place and does not hold up the others.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventBatch {
    #[schema(min_items = 1, max_items = 1000)]
    events: Vec<NewEvent>,
}

/// Events that are asked for.
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
    /// The earliest moment, itself among them.
    start_date: Option<Timestamp>,
    /// The latest moment, itself among them.
    end_date: Option<Timestamp>,
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<u32>,
    /// Rows to skip: for small lists. `cursor` costs the same however deep.
    #[param(minimum = 0, maximum = 4611686018427387903_i64, default = 0)]
    offset: Option<u64>,
    /// The `next_cursor` of the page before; not with `offset`.
    cursor: Option<String>,
}

/// How loudly it asks; `critical` is `urgent`.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AskedPriority {
    Low,
    Normal,
    High,
    Urgent,
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
            /// `normal` where it is left out.
            priority: Option<AskedPriority>,
            /// `general` where it is left out. `category` is another name for it.
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
            /// In the future.
            #[schema(example = "2126-01-02T03:04:05.678Z")]
            expires_at: Option<Timestamp>,
        }
    };
}
notification_shape! {
    /// A notification to create.
    NewNotification {
        user_id: UserId,
        /// Unique in the app.
        #[schema(min_length = 1, max_length = 255)]
        external_id: Option<String>,
    }
}
notification_shape! {
    /// One content for many users.
    SharedNotification {
        #[schema(min_items = 1, max_items = 1000)]
        user_ids: Vec<UserId>,
    }
}

/// Up to a thousand notifications, each with its own content or all with one.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum NotificationBatch {
    OneByOne(NotificationList),
    Shared(SharedNotification),
}

/// Up to a thousand notifications. One that breaks a rule is answered in its place and does not hold up the others.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NotificationList {
    #[schema(min_items = 1, max_items = 1000)]
    notifications: Vec<NewNotification>,
}

/// Notifications that are asked for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FeedQuery {
    /// May be given several times. Where it is left out: all but `expired`.
    status: Option<Vec<Status>>,
    app_id: Option<AppId>,
    #[param(min_length = 1, max_length = 100)]
    notification_type: Option<String>,
    /// The earliest moment of creation.
    since: Option<Timestamp>,
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<u32>,
    /// Rows to skip: for small lists. `cursor` costs the same however deep.
    #[param(minimum = 0, maximum = 4611686018427387903_i64, default = 0)]
    offset: Option<u64>,
    /// The `next_cursor` of the page before; not with `offset`.
    cursor: Option<String>,
}

/// What is to become of a notification.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NotificationChange {
    status: Status,
    /// The caller's app where it is left out.
    #[schema(min_length = 1, max_length = 255)]
    dismissed_from: Option<String>,
    #[schema(min_length = 1, max_length = 255)]
    click_action: Option<String>,
    /// Goes into the event's data. At most 64 KiB encoded.
    metadata: Option<JsonObject>,
}

/// Which notifications become read; all where it is left out.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadAll {
    app_id: Option<AppId>,
    /// Those created before this moment.
    before: Option<Timestamp>,
}

/// An event type; `*` stands for one segment, a closing `.**` for one or more, `*` or `**` alone for everything.
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
pub struct NewWebhook {
    /// HTTPS, to a public address, without credentials or fragment; what else is allowed is the operator's to say.
    #[schema(max_length = 2048, format = "uri", example = "https://example.com/hook")]
    webhook_url: String,
    #[schema(min_items = 1, max_items = 100)]
    subscribed_events: Vec<EventPattern>,
    #[schema(max_length = 500)]
    description: Option<String>,
    /// Attempts after the first.
    #[schema(minimum = 1, maximum = 10, default = 5)]
    max_retries: Option<u16>,
    /// Before the first retry; doubled for each further one.
    #[schema(minimum = 1, maximum = 60, default = 1)]
    retry_backoff_seconds: Option<u16>,
}

/// What is to change of a webhook.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookChange {
    #[schema(max_length = 2048, format = "uri", example = "https://example.com/hook")]
    webhook_url: Option<String>,
    #[schema(min_items = 1, max_items = 100, nullable = false)]
    subscribed_events: Option<Vec<EventPattern>>,
    /// `true` clears `consecutive_failures`.
    is_active: Option<bool>,
    /// `null` takes it away.
    #[schema(max_length = 500)]
    description: Option<String>,
    #[schema(minimum = 1, maximum = 10)]
    max_retries: Option<u16>,
    #[schema(minimum = 1, maximum = 60)]
    retry_backoff_seconds: Option<u16>,
}

/// Deliveries that are asked for.
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

/// Since when what was missed is to be queued again.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoveryRequest {
    since: Timestamp,
}

/// How long a token is to hold.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    #[schema(minimum = 1, maximum = 86400, default = 3600)]
    ttl_seconds: Option<u32>,
}

/// An app to make.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApp {
    app_id: AppId,
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$", example = "Work Buddy")]
    name: String,
    #[schema(max_length = 2048, format = "uri", example = "https://example.com/icon.png")]
    icon_url: Option<String>,
    /// A platform app reads and changes every user's notifications, from all apps.
    is_platform: Option<bool>,
    limits: Option<Limits>,
}

/// What is to change of an app.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppChange {
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    name: Option<String>,
    /// `null` takes it away.
    #[schema(max_length = 2048, format = "uri", example = "https://example.com/icon.png")]
    icon_url: Option<String>,
    /// An app that is not is refused everywhere, and its sockets are closed.
    is_active: Option<bool>,
    is_platform: Option<bool>,
    limits: Option<Limits>,
}

/// Requests a window, by class, where they are not the configuration's.
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

/// Entries of the audit log that are asked for.
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
    /// The earliest moment, itself among them.
    since: Option<Timestamp>,
    /// The latest moment, itself among them.
    until: Option<Timestamp>,
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}
