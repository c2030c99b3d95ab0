//! The realtime core of oriva-hub: who is online, in which order events reach them, and over which socket.
//!
//! It knows no routes, no SQL, no Redis and no HTTP client. What it needs from outside is a trait in [`ports`]; what it
//! offers are two handles, [`Realtime`] and [`Webhooks`].

#![warn(missing_docs)]

mod config;
mod connection_permit;
mod context;
pub mod metric_names;
pub mod model;
pub mod ports;
pub mod protocol;
mod realtime;
mod registry;
mod session;
mod shard;
mod socket;
mod socket_loop;
mod stream_cursor;
mod supervise;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod traces;
mod webhooks;

pub use config::RealtimeConfig;
pub use connection_permit::AcquireError;
pub use context::Ports;
pub use realtime::{Opening, Realtime, ReservedConnection};
pub use registry::messages::RegistryState;
pub use socket::transport::Transport;
pub use supervise::Tasks;
pub use webhooks::{BreakerState, WebhookConfig, Webhooks, WebhooksState};
