//! The parts that deliver to webhooks, besides the store.

use std::sync::Arc;

use oriva_hub_actors::{Webhooks, model::Invalid, ports::WebhookSender};

use super::outbox::UnreadableSecrets;
use crate::auth::Sealer;

/// The rule for a webhook's URL when it is registered. Returns the URL, or the rule it breaks.
pub type UrlRule = Arc<dyn Fn(&str) -> Result<String, Invalid> + Send + Sync>;

/// What webhooks need beside the store.
pub struct WebhookServices {
    /// Encrypts secrets.
    pub sealer: Arc<Sealer>,
    /// Sends tests.
    pub sender: Arc<dyn WebhookSender>,
    /// Delivers what is due.
    pub actors: Webhooks,
    /// Failures in a row that disable a webhook.
    pub disable_after: u32,
    /// Secrets that could not be opened.
    pub unreadable_secrets: UnreadableSecrets,
    /// Greatest number of webhooks of one app.
    pub max_per_app: u32,
    /// The rule for a webhook's URL.
    pub check_url: UrlRule,
}
