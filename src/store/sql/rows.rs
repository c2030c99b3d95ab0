//! Columns and rows: the lists of columns that queries select, and what their rows become.

use std::sync::Arc;

use oriva_hub_actors::{
    model::{
        AppId, Category, DeliveryId, Event, EventId, EventType, Invalid, JsonObject, KeyId, NotificationId, Offsets,
        OwnedWebhook, StreamKind, TraceParent, UserId, WebhookId,
    },
    ports::PayloadForm,
    protocol::PublishedEvent,
};

use super::dialect::{Dialect, SqlRow};
use crate::store::{
    ApiKey, App, AttemptRow, AuditEntry, Content, DeliveryRow, DeliveryStatus, Notification, NotificationRecord,
    NotificationState, Priority, Recovery, Status, StoreError, Webhook,
    batch::{StreamCounts, StreamOffsets},
};

/// Everything of [`ApiKey`].
pub(in crate::store) const KEY: &str = "key_id, app_id, prefix, created_at, last_used_at, revoked_at";
/// Everything of [`Webhook`].
pub(in crate::store) const WEBHOOK: &str = "id, app_id, webhook_url, secret, previous_secret, \
     previous_secret_expires_at, subscribed_events, is_active, disabled_reason, description, last_delivery_at, \
     last_success_at, last_failure_at, consecutive_failures, total_deliveries, total_failures, max_retries, \
     retry_backoff_seconds, payload, created_at, updated_at";
/// Number of columns of [`WEBHOOK`].
pub(in crate::store) const WEBHOOK_COLUMNS: usize = 21;
/// Everything of [`DeliveryRow`] but its attempts.
pub(in crate::store) const DELIVERY: &str =
    "id, event_id, event_type, status, attempts, next_attempt_at, created_at, updated_at";
/// Everything of [`AttemptRow`], with the delivery's id before it.
pub(in crate::store) const ATTEMPT: &str = "delivery_id, delivery_attempt, delivered_at, success, status_code, \
     response_time_ms, response_body, error_message";
/// Everything of [`Recovery`].
pub(in crate::store) const RECOVERY: &str =
    "id, webhook_id, app_id, since, position, until_offset, queued, created_at, finished_at";
/// A [`NotificationRecord`] without a condition: from the state `s`, the content `n` and the app `a`.
pub(in crate::store) const RECORD: &str = "select s.notification_id, s.app_id, s.user_id, n.external_id, \
     a.is_platform, s.status, s.delivered_at, s.read_at, s.dismissed_at, s.clicked_at, s.expired_at, s.dismissed_from, \
     s.click_action, s.created_at, s.updated_at from notification_state s \
     join platform_notifications n on n.id = s.notification_id join apps a on a.app_id = s.app_id";

/// A list of columns, each with its table before it.
pub(in crate::store) fn qualified(table: &str, columns: &str) -> String {
    columns.split(", ").map(|column| format!("{table}.{}", column.trim())).collect::<Vec<_>>().join(", ")
}

/// Everything of [`App`].
pub(in crate::store) fn app_columns<D: Dialect>() -> String {
    format!("app_id, name, icon_url, is_active, is_platform, {}, created_at, updated_at", D::json_text("limits"))
}

/// Everything of an event.
pub(in crate::store) fn event_columns<D: Dialect>() -> String {
    format!(
        "platform_events.id, platform_events.app_id, user_id, event_category, event_type, entity_type, entity_id, {}, \
         from_platform, app_offset, user_offset, broadcast_offset, timestamp, created_at, traceparent",
        D::json_text("event_data")
    )
}

/// Everything of [`Notification`], from the state `s` and the content `n`.
pub(in crate::store) fn notification_columns<D: Dialect>() -> String {
    format!(
        "s.status, s.delivered_at, s.read_at, s.dismissed_at, s.clicked_at, s.expired_at, s.dismissed_from, \
         s.click_action, s.created_at, s.updated_at, n.id, n.app_id, n.user_id, n.external_id, n.notification_type, \
         n.title, n.body, n.priority, n.action_url, n.action_label, n.image_url, n.icon_url, {}, n.expires_at",
        D::json_text("n.context_data")
    )
}

/// A row that breaks the rules it was written by.
pub(in crate::store) fn corrupt_row(error: Invalid) -> StoreError {
    StoreError::failed(error)
}

fn app_id(row: &impl SqlRow, column: usize) -> Result<AppId, StoreError> {
    AppId::parse(&row.text(column)?).map_err(corrupt_row)
}

pub(in crate::store) fn app_from_row(row: &impl SqlRow) -> Result<App, StoreError> {
    Ok(App {
        id: app_id(row, 0)?,
        name: row.text(1)?,
        icon_url: row.text_or_null(2)?,
        is_active: row.flag(3)?,
        is_platform: row.flag(4)?,
        limits: serde_json::from_str(&row.text(5)?).map_err(StoreError::failed)?,
        created_at: row.moment(6)?,
        updated_at: row.moment(7)?,
    })
}

/// From the columns that begin at `first`.
pub(in crate::store) fn key_from_row(row: &impl SqlRow, first: usize) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        id: KeyId(row.id(first)?),
        app_id: app_id(row, first + 1)?,
        prefix: row.text(first + 2)?,
        created_at: row.moment(first + 3)?,
        last_used_at: row.moment_or_null(first + 4)?,
        revoked_at: row.moment_or_null(first + 5)?,
    })
}

/// From the columns that begin at `first`.
pub(in crate::store) fn event_from_row(row: &impl SqlRow, first: usize) -> Result<Arc<PublishedEvent>, StoreError> {
    let user_id = row.text_or_null(first + 2)?;
    let offsets = Offsets {
        app: row.big_or_null(first + 9)?.unwrap_or(0),
        user: row.big_or_null(first + 10)?,
        broadcast: row.big_or_null(first + 11)?,
    };
    Ok(PublishedEvent::new(Event {
        id: EventId(row.id(first)?),
        app_id: app_id(row, first + 1)?,
        user_id: user_id.as_deref().map(UserId::parse).transpose().map_err(corrupt_row)?,
        category: Category::parse(&row.text(first + 3)?).map_err(corrupt_row)?,
        event_type: EventType::from_store(&row.text(first + 4)?),
        entity_type: row.text(first + 5)?,
        entity_id: row.text(first + 6)?,
        data: JsonObject::from_store(row.text(first + 7)?).map_err(corrupt_row)?,
        from_platform: row.flag(first + 8)?,
        offsets,
        timestamp: row.moment(first + 12)?,
        created_at: row.moment(first + 13)?,
        trace: row.text_or_null(first + 14)?.as_deref().and_then(TraceParent::parse),
    }))
}

/// From [`notification_columns`].
pub(in crate::store) fn notification_from_row(row: &impl SqlRow) -> Result<Notification, StoreError> {
    Ok(Notification {
        state: state_from_row(row, 0)?,
        id: NotificationId(row.id(10)?),
        app_id: app_id(row, 11)?,
        user_id: UserId::parse(&row.text(12)?).map_err(corrupt_row)?,
        content: Content {
            external_id: row.text_or_null(13)?,
            notification_type: row.text(14)?,
            title: row.text(15)?,
            body: row.text(16)?,
            priority: Priority::parse(&row.text(17)?).map_err(corrupt_row)?,
            action_url: row.text_or_null(18)?,
            action_label: row.text_or_null(19)?,
            image_url: row.text_or_null(20)?,
            icon_url: row.text_or_null(21)?,
            context_data: JsonObject::from_store(row.text(22)?).map_err(corrupt_row)?,
            expires_at: row.moment_or_null(23)?,
        },
    })
}

/// From [`RECORD`].
pub(in crate::store) fn record_from_row(row: &impl SqlRow) -> Result<NotificationRecord, StoreError> {
    Ok(NotificationRecord {
        id: NotificationId(row.id(0)?),
        app_id: app_id(row, 1)?,
        user_id: UserId::parse(&row.text(2)?).map_err(corrupt_row)?,
        external_id: row.text_or_null(3)?,
        from_platform: row.flag(4)?,
        state: state_from_row(row, 5)?,
    })
}

/// Ten columns from `first`: status, delivered, read, dismissed, clicked, expired, dismissed from, click action, created,
/// updated.
fn state_from_row(row: &impl SqlRow, first: usize) -> Result<NotificationState, StoreError> {
    Ok(NotificationState {
        status: status_from_text(&row.text(first)?)?,
        delivered_at: row.moment_or_null(first + 1)?,
        read_at: row.moment_or_null(first + 2)?,
        dismissed_at: row.moment_or_null(first + 3)?,
        clicked_at: row.moment_or_null(first + 4)?,
        expired_at: row.moment_or_null(first + 5)?,
        dismissed_from: row.text_or_null(first + 6)?,
        click_action: row.text_or_null(first + 7)?,
        created_at: row.moment(first + 8)?,
        updated_at: row.moment(first + 9)?,
    })
}

pub(in crate::store) fn status_from_text(text: &str) -> Result<Status, StoreError> {
    Status::from_name(text).ok_or_else(|| corrupt_row(Invalid(format!("{text} is no status of a notification"))))
}

/// Reads a webhook's owner and id.
pub(in crate::store) fn owned_webhook_from_row(row: &impl SqlRow) -> Result<OwnedWebhook, StoreError> {
    Ok(OwnedWebhook { app: app_id(row, 0)?, id: WebhookId(row.id(1)?) })
}

pub(in crate::store) fn webhook_from_row(row: &impl SqlRow) -> Result<Webhook, StoreError> {
    Ok(Webhook {
        id: WebhookId(row.id(0)?),
        app_id: app_id(row, 1)?,
        url: row.text(2)?,
        secret: row.bytes(3)?,
        previous_secret: row.bytes_or_null(4)?,
        previous_secret_expires_at: row.moment_or_null(5)?,
        subscribed_events: row.texts(6)?,
        is_active: row.flag(7)?,
        disabled_reason: row.text_or_null(8)?,
        description: row.text_or_null(9)?,
        last_delivery_at: row.moment_or_null(10)?,
        last_success_at: row.moment_or_null(11)?,
        last_failure_at: row.moment_or_null(12)?,
        consecutive_failures: row.int(13)?,
        total_deliveries: row.big(14)?,
        total_failures: row.big(15)?,
        max_retries: row.small(16)?,
        retry_backoff_seconds: row.small(17)?,
        payload: PayloadForm::parse(&row.text(18)?).map_err(corrupt_row)?,
        created_at: row.moment(19)?,
        updated_at: row.moment(20)?,
    })
}

pub(in crate::store) fn delivery_from_row(row: &impl SqlRow) -> Result<DeliveryRow, StoreError> {
    let status = row.text(3)?;
    let status = DeliveryStatus::from_name(&status)
        .ok_or_else(|| corrupt_row(Invalid(format!("{status} is no status of a delivery"))))?;
    Ok(DeliveryRow {
        id: DeliveryId(row.id(0)?),
        event_id: EventId(row.id(1)?),
        event_type: row.text(2)?,
        status,
        attempts: row.small(4)?,
        next_attempt_at: row.moment(5)?,
        created_at: row.moment(6)?,
        updated_at: row.moment(7)?,
        log: Vec::new(),
    })
}

/// From [`ATTEMPT`], without the delivery's id.
pub(in crate::store) fn attempt_from_row(row: &impl SqlRow) -> Result<AttemptRow, StoreError> {
    Ok(AttemptRow {
        number: row.small(1)?,
        at: row.moment(2)?,
        success: row.flag(3)?,
        status_code: row.small_or_null(4)?,
        response_time_ms: row.int_or_null(5)?,
        response_body: row.text_or_null(6)?,
        error_message: row.text_or_null(7)?,
    })
}

pub(in crate::store) fn recovery_from_row(row: &impl SqlRow) -> Result<Recovery, StoreError> {
    Ok(Recovery {
        id: row.id(0)?,
        webhook_id: WebhookId(row.id(1)?),
        app_id: app_id(row, 2)?,
        since: row.moment(3)?,
        position: row.big(4)?,
        until: row.big(5)?,
        queued: row.big(6)?,
        created_at: row.moment(7)?,
        finished_at: row.moment_or_null(8)?,
    })
}

/// From `kind, key, last_offset` and the revision of the webhooks' subscriptions. `counts`: by how much each stream was raised.
pub(in crate::store) fn stream_offsets(
    counts: &StreamCounts<'_>,
    rows: &[impl SqlRow],
) -> Result<(StreamOffsets, i64), StoreError> {
    let (mut offsets, mut revision) = (StreamOffsets::default(), 0);
    for row in rows {
        let (kind, key) = (row.text(0)?, row.text(1)?);
        let (Some(stream), Some(count)) = (StreamKind::from_name(&kind), counts.get(&(&*kind, &*key)).copied()) else {
            return Err(corrupt_row(Invalid(format!("{kind} {key} is a stream that was not raised"))));
        };
        offsets.raised(stream, key, row.big(2)?, count);
        revision = row.big(3)?.cast_signed();
    }
    if rows.len() != counts.len() {
        return Err(corrupt_row(Invalid(format!("{} of {} streams were raised", rows.len(), counts.len()))));
    }
    Ok((offsets, revision))
}

/// From `id, actor, action, subject, app_id, address, at`.
pub(in crate::store) fn audit_entry_from_row(row: &impl SqlRow) -> Result<AuditEntry, StoreError> {
    Ok(AuditEntry {
        id: row.id(0)?,
        actor: row.text(1)?,
        action: row.text(2)?,
        subject: row.text(3)?,
        app_id: row.text_or_null(4)?,
        ip: row.text_or_null(5)?.and_then(|ip| ip.parse().ok()),
        at: row.moment(6)?,
    })
}
