//! The results that publishers get (contract §4 and §6). The store keeps them as JSON beside their idempotency key, in
//! the transaction that makes them true, and HTTP sends the same shapes.

use oriva_hub_actors::model::{EventId, NotificationId, Offset, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A published event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = PublishedEvent)]
pub struct EventReceipt {
    /// The event's id.
    pub event_id: EventId,
    /// When the event was accepted.
    pub timestamp: Timestamp,
    /// The event's offset in the app's stream.
    #[schema(value_type = u64)]
    pub offset: Offset,
}

/// One result for each event of a batch, in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = PublishedEvents)]
pub struct EventReceipts {
    /// One result for each event.
    pub events: Vec<EventResult>,
}

/// A created notification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = CreatedNotification)]
pub struct NotificationReceipt {
    /// The notification's id.
    pub notification_id: NotificationId,
    /// When it was created.
    pub created_at: Timestamp,
}

/// One result for each notification of a batch, in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = CreatedNotifications)]
pub struct NotificationReceipts {
    /// One result for each notification.
    pub notifications: Vec<NotificationResult>,
}

/// The result of one event of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum EventResult {
    /// It was published.
    Published(EventReceipt),
    /// It was not.
    Rejected(ItemError),
}

/// The result of one notification of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum NotificationResult {
    /// It was created.
    Created(NotificationReceipt),
    /// It was not.
    Rejected(ItemError),
}

/// An item of a batch as it comes in: valid, or rejected with an error that is sent in its place.
pub type BatchItem<T> = Result<T, ItemError>;

/// An item of a batch that was rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ItemError {
    /// What is wrong, in a sentence.
    pub error: String,
    /// The kind of fault.
    pub code: ItemErrorCode,
    /// The fields that broke a rule.
    pub details: Vec<FaultyField>,
    /// The notification that has the external id, where `code` is `duplicate_external_id`.
    #[schema(nullable = false)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notification_id: Option<NotificationId>,
}

/// Why an item was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemErrorCode {
    /// A field broke a rule.
    ValidationFailed,
    /// The external id belongs to another notification.
    DuplicateExternalId,
}

/// A field that broke a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FaultyField {
    /// The field's name.
    pub field: String,
    /// A sentence that begins with the field's name.
    pub message: String,
}

impl FaultyField {
    /// `rule` goes on after the name: "must be a string".
    #[must_use]
    pub fn new(name: &str, rule: &str) -> Self {
        Self { field: name.to_owned(), message: format!("{name} {rule}") }
    }
}

impl ItemError {
    /// All faulty fields at once.
    #[must_use]
    pub fn invalid(details: Vec<FaultyField>) -> Self {
        let error = details.iter().map(|field| field.message.as_str()).collect::<Vec<_>>().join("; ");
        Self { error, code: ItemErrorCode::ValidationFailed, details, notification_id: None }
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let details = self.details.iter().map(|fault| fault.field.len() + fault.message.len());
        self.error.len() + details.sum::<usize>()
    }

    /// `owner` is the notification that has the external id.
    #[must_use]
    pub fn duplicate_external_id(owner: NotificationId) -> Self {
        let field = FaultyField::new("external_id", "is that of another notification of this app");
        Self {
            error: field.message.clone(),
            code: ItemErrorCode::DuplicateExternalId,
            details: vec![field],
            notification_id: Some(owner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_answer_comes_back_as_it_was_sent() {
        let kept = concat!(
            r#"{"events":[{"event_id":"0190b8a0-0000-7000-8000-000000000001","timestamp":"2026-01-01T00:00:00.000Z","#,
            r#""offset":7},{"error":"user_id is required","code":"validation_failed","#,
            r#""details":[{"field":"user_id","message":"user_id is required"}]}]}"#
        );
        let receipts: EventReceipts = serde_json::from_str(kept).unwrap();
        assert!(matches!(&receipts.events[..], [EventResult::Published(_), EventResult::Rejected(_)]));
        assert_eq!(serde_json::to_string(&receipts).unwrap(), kept);
        let kept = concat!(
            r#"{"notifications":[{"error":"external_id is that of another notification of this app","#,
            r#""code":"duplicate_external_id","details":[{"field":"external_id","#,
            r#""message":"external_id is that of another notification of this app"}],"#,
            r#""notification_id":"0190b8a0-0000-7000-8000-000000000001"}]}"#
        );
        let receipts: NotificationReceipts = serde_json::from_str(kept).unwrap();
        assert!(matches!(&receipts.notifications[..], [NotificationResult::Rejected(_)]));
        assert_eq!(serde_json::to_string(&receipts).unwrap(), kept);
    }
}
