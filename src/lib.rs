//! oriva-hub: the realtime hub that a platform of many apps runs for its users. See ARCHITECTURE.md.

#![warn(missing_docs)]

pub mod archive;
pub mod auth;
pub mod bus;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod error_chain;
pub mod http;
pub mod hub;
pub mod limits;
pub mod metrics;
pub mod outbound;
pub mod presence;
pub mod redis_client;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod workers;
