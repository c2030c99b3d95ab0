//! Whether the store takes writes, as far as this node knows. Readiness follows what the writer found; while it found that
//! nothing can be written, a worker tries (`workers/write_watch.rs`).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::store::{Outage, Store, StoreError, within_deadline};

/// A submission that waits for longer is no ordinary one: nothing is being written.
const STUCK: Duration = Duration::from_secs(4);

/// What the writer found. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct WriteState(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    outage: Option<Outage>,
    /// When the oldest submission came that is being written.
    oldest: Option<Instant>,
    is_stuck_logged: bool,
}

impl WriteState {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer began with submissions of which the oldest came then. It is done with them when the returned value is
    /// dropped, also where it panics.
    pub(super) fn writing(&self, oldest: Option<Instant>) -> Writing<'_> {
        self.state().oldest = oldest;
        Writing(self)
    }

    /// Something was written.
    pub fn succeeded(&self) {
        if let Some(outage) = self.state().outage.take() {
            tracing::info!(%outage, "the store takes writes again");
        }
    }

    /// Something could not be written. Errors that say nothing of the store as a whole are ignored.
    pub fn failed(&self, error: &StoreError) {
        let Some(outage) = error.outage().filter(|outage| *outage != Outage::Closed) else { return };
        if self.state().outage.replace(outage) != Some(outage) {
            tracing::warn!(error = error as &dyn std::error::Error, "nothing can be written");
        }
    }

    /// Whether the last attempt to write found that nothing can be written.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.state().outage.is_some()
    }

    /// Whether the store takes writes: the last one succeeded, and none waits for long.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let mut state = self.state();
        let is_stuck = state.oldest.is_some_and(|oldest| oldest.elapsed() > STUCK);
        if is_stuck && !std::mem::replace(&mut state.is_stuck_logged, true) {
            tracing::warn!(
                "a write waits for more than {} s: the store is slow, or somebody holds a lock",
                STUCK.as_secs()
            );
        }
        state.outage.is_none() && !is_stuck
    }
}

/// Submissions are being written until this is dropped.
pub(super) struct Writing<'a>(&'a WriteState);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.oldest = None;
        state.is_stuck_logged = false;
    }
}

/// The store came back older than it was. Offsets that were told mean other events from now on, so it takes another epoch in
/// place of `epoch`; every node sees that, and tells its sockets.
pub(super) async fn take_new_epoch(store: &dyn Store, epoch: &str, state: &WriteState) {
    match within_deadline(store, store.renew_epoch(Some(epoch))).await {
        Ok(epoch) => tracing::error!(
            %epoch,
            "the database lost committed events; clients are told to reload: see to its replication, fsync and synchronous_commit"
        ),
        Err(error) => {
            state.failed(&error);
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the database lost committed events, and takes no new epoch; it is tried again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_good_until_a_write_fails_or_waits() {
        let state = WriteState::default();
        assert!(state.is_good());
        state.failed(&StoreError::Duplicate);
        assert!(state.is_good(), "the store answered");
        state.failed(&StoreError::Unavailable(Outage::Full, None));
        assert!(!state.is_good() && state.has_failed());
        state.succeeded();
        assert!(state.is_good() && !state.has_failed());

        let writing = state.writing(Some(Instant::now()));
        tokio::time::advance(STUCK).await;
        assert!(state.is_good());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!state.is_good() && !state.has_failed());
        drop(writing);
        assert!(state.is_good());
    }
}
