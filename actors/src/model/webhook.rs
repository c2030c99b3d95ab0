//! Which webhook, and whose.

use super::{AppId, WebhookId};

/// A webhook with its owner: work for webhooks is shared fairly between apps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnedWebhook {
    /// The app that owns it.
    pub app: AppId,
    /// The webhook.
    pub id: WebhookId,
}
