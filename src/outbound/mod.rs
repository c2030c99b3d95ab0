//! Outgoing requests to webhooks, and the guard on where they may go.

mod client;
mod guard;
mod payload;
mod resolver;
mod sender;
mod signature;

pub use guard::Guard;
pub use sender::HttpSender;
#[cfg(feature = "testing")]
pub use signature::both as sign;
