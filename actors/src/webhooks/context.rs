//! What the webhook actors share.

use std::{sync::Arc, time::Duration};

use crate::ports::{Deliveries, WebhookSender};

/// What the webhook actors take from the configuration (section `webhooks`).
#[derive(Debug, Clone, Copy)]
pub struct WebhookConfig {
    /// Requests in flight to one endpoint.
    pub concurrency: usize,
    /// Interval of the search for webhooks with due deliveries of which no nudge came.
    pub sweep: Duration,
    /// Interval of the search for deliveries whose node is gone.
    pub lease_check: Duration,
}

/// What supervisor and endpoints share.
pub(super) struct WebhookContext {
    pub config: WebhookConfig,
    pub deliveries: Arc<dyn Deliveries>,
    pub sender: Arc<dyn WebhookSender>,
}
