//! The writing transaction, step by step: [`Claims`] → [`Locked`] → [`Decided`] → [`Numbered`]. Each type consumes the one
//! before, so the steps cannot be taken in another order. Everything here is pure: `sql/append.rs` runs the SQL between
//! the steps, for both databases.
//!
//! 1. [`Claims`]: idempotency keys are taken. A submission whose key another request has is settled here.
//! 2. [`Locked`]: new notifications are inserted, and the notifications that submissions change are read and locked.
//! 3. [`Decided`]: every operation has its outcome and its events, and every notification its new state.
//! 4. [`Numbered`]: events have their offsets.
//!
//! A batch that only publishes and creates has nothing to claim or to lock. A database that writes events in one statement
//! numbers them there, by their [`Places`].

mod claims;
mod decided;
mod locked;
mod numbered;
mod stream_offsets;

pub(super) use claims::{Claims, Insertion};
pub(super) use decided::Decided;
pub(super) use locked::Locked;
pub(super) use numbered::{Answer, EventRow, Numbered, Written};
pub(super) use stream_offsets::{LONGEST_WAIT_MS, Places, StreamCounts, StreamOffsets, stored_at};
