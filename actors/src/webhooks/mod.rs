//! Deliveries to webhooks: a supervisor, and one endpoint for each webhook that has work.
//!
//! The queue is the delivery rows in the store, so nothing here is lost with the process. A claimed delivery becomes due
//! again when its lease ends, and the sweep finds webhooks of which no nudge came.

mod breaker;
mod context;
mod endpoint;
mod handle;
mod messages;
mod prefetch;
mod supervisor;
#[cfg(test)]
mod tests;

pub use breaker::BreakerState;
pub use context::WebhookConfig;
pub use handle::Webhooks;
pub use messages::WebhooksState;
