//! `/users/{user_id}/…`.

pub mod notifications;
