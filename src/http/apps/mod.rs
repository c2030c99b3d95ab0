//! `/api/v1/apps/{app_id}`: the routes of an app's server.

pub mod events;
pub mod notifications;
pub mod tokens;
pub mod webhooks;
