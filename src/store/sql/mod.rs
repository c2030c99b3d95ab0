//! The SQL that both databases share, written once over a [`dialect::Dialect`]. `postgres/` and `sqlite/` keep what
//! differs: the writing transaction, row locks, row level security, and retention.

mod append;
mod apps;
pub(super) mod audit;
pub(super) mod dialect;
mod events;
pub(super) mod feed;
pub(super) mod outbox;
pub(super) mod revisions;
pub(super) mod rows;
pub(super) mod statement;
mod webhooks;
