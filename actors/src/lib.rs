//! The realtime core of oriva-hub: who is online, in which order they are told what, and over which socket.
//!
//! It knows no routes, no SQL, no Redis and no HTTP client. What it needs from outside is a trait in [`ports`];
//! what it offers are two handles, [`Realtime`] and
//! [`Webhooks`].

pub mod metric_names;
pub mod model;
pub mod ports;
pub mod protocol;

mod stream_cursor;
mod realtime;
mod socket_loop;
mod registry;
mod session;
mod socket;
mod supervise;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod traces;
mod webhooks;

pub use realtime::{Ports, Realtime, RealtimeConfig, ReservedConnection};
pub use registry::{AcquireError, RegistryState};
pub use socket::{NewSocket, Transport};
pub use webhooks::{WebhookConfig, Webhooks, WebhooksState};
