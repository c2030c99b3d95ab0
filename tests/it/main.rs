//! One binary for all integration tests: real databases, a real server on a free port, real sockets.

#![expect(clippy::unwrap_used, reason = "a test that finds nothing where something must be has failed")]

mod harness;

mod admin;
mod as_written;
mod asyncapi;
mod autobahn;
mod cli;
mod connections;
mod events;
mod guide;
mod house;
mod load;
mod matrix;
mod metrics;
mod nodes;
mod notifications;
mod openapi;
mod operations;
mod process;
mod quickstart;
mod resume;
mod retention;
mod store;
mod stream;
mod traces;
mod webhooks;
