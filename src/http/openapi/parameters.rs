//! Parameters in paths and headers, for the OpenAPI document.

#![expect(dead_code, reason = "shapes for the document alone")]

use oriva_hub_actors::model::{AppId, DeliveryId, KeyId, NotificationId, UserId, WebhookId};
use utoipa::IntoParams;

/// `app_id`
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct OfApp {
    /// The app.
    app_id: AppId,
}

/// `user_id`
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct OfUser {
    /// The user.
    user_id: UserId,
}

/// `notification_id`
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct OfNotification {
    /// The notification.
    notification_id: NotificationId,
}

/// `webhook_id`
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct OfWebhook {
    /// The webhook.
    webhook_id: WebhookId,
}

/// `delivery_id`
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct OfDelivery {
    /// The delivery.
    delivery_id: DeliveryId,
}

/// `key_id`
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct OfKey {
    /// The API key's id, not the key itself.
    key_id: KeyId,
}

/// `Idempotency-Key`
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IdempotencyKey {
    /// 1 to 255 characters, kept for 24 hours. A repeat with the same key and body gets the answer of the first
    /// request.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, pattern = "^[!#-~]+$", required = false)]
    idempotency_key: String,
}
