//! `/users/{user_id}/…`.

pub mod notifications;
pub mod presence;
