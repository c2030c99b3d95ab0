//! One binary for all integration tests: real databases, a real server on a free port, real sockets.

mod harness;

mod admin;
mod autobahn;
mod cli;
mod events;
mod house;
mod load;
mod matrix;
mod process;
mod resume;
mod store;
mod stream;
