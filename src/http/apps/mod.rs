//! `/api/v1/apps/{app_id}`: what an app's server does.

pub mod events;
pub mod notifications;
pub mod tokens;
pub mod webhooks;
