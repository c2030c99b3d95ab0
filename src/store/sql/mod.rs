//! The SQL of both databases, written once over a [`dialect::Dialect`]. `postgres/` and `sqlite/` have what differs:
//! values, row locks, row level security, claiming of deliveries, and retention.

pub(super) mod append;
mod apps;
pub(super) mod audit;
pub(super) mod dialect;
pub(super) mod events;
pub(super) mod feed;
pub(super) mod outbox;
pub(super) mod revisions;
pub(super) mod rows;
pub(super) mod statement;
mod webhooks;
