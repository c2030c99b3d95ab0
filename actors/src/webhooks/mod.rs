//! Deliveries to webhooks: the supervisor, and one endpoint for each webhook that has work.
//!
//! The store's delivery rows are the queue. Nothing here is lost with the process: what is claimed comes back when its
//! lease runs out, and what nobody was nudged for is found by the sweep.

mod breaker;
mod endpoint;
mod prefetch;
mod supervisor;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use crate::ports::{Deliveries, WebhookSender};

pub use supervisor::{Webhooks, WebhooksState};

/// What the webhook actors are told of the configuration (section `webhooks`).
#[derive(Debug, Clone, Copy)]
pub struct WebhookConfig {
    /// Requests under way to one endpoint.
    pub concurrency: usize,
    /// How often webhooks with due deliveries are looked for that nobody was nudged for.
    pub sweep: Duration,
    /// How often deliveries are looked for whose node is gone.
    pub lease_check: Duration,
}

/// What supervisor and endpoints share.
struct WebhookContext {
    config: WebhookConfig,
    deliveries: Arc<dyn Deliveries>,
    sender: Arc<dyn WebhookSender>,
}
