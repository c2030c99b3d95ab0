//! Whether connection limits, presence and rate limits are counted over all nodes. Where they are not, each node grants what
//! all of them together should.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use oriva_hub_actors::metric_names;
use tokio::time::Instant;

use crate::presence::Counting;

/// A fault that lasts for longer is no blip: a node registers anew within a second.
const BLIP: Duration = Duration::from_secs(3);

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error(
        "Redis does not count connections: it is away, or refuses (see to the hub's rights, ACL, and to maxmemory)"
    )]
    Connections,
    #[error("Redis does not count requests: it is away, or refuses (see to the hub's rights, ACL, and to maxmemory)")]
    Requests,
    #[error("a node that is heard counts elsewhere: see that all nodes use the same database of one Redis")]
    Elsewhere,
}

/// The last comparison.
#[derive(Debug, Default)]
pub(super) struct CountingWatch(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    fault: Option<(Fault, Instant)>,
    is_told: bool,
}

impl CountingWatch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares how this node counts with the number of nodes that it hears over the bus.
    pub(super) fn compare(&self, connections: Counting, requests_fail: bool, heard: usize) {
        let fault = match connections {
            Counting::Failing => Some(Fault::Connections),
            Counting::Shared { others } if others < heard => Some(Fault::Elsewhere),
            Counting::Alone | Counting::Shared { .. } => requests_fail.then_some(Fault::Requests),
        };
        let mut state = self.state();
        let since = match (state.fault, fault) {
            (Some((_, since)), Some(fault)) => Some((fault, since)),
            (None, Some(fault)) => Some((fault, Instant::now())),
            (_, None) => None,
        };
        state.fault = since;
        let is_off = since.is_some_and(|(_, since)| since.elapsed() > BLIP);
        metrics::gauge!(metric_names::COUNTING).set(if is_off { 0.0 } else { 1.0 });
        let was_told = std::mem::replace(&mut state.is_told, is_off);
        match since {
            Some((fault, _)) if is_off && !was_told => {
                tracing::warn!(%fault, "limits and presence are counted by this node alone");
            }
            None if was_told => tracing::info!("limits and presence are counted over all nodes again"),
            _ => {}
        }
    }

    /// Whether this node counts alone although it should not.
    pub(super) fn is_off(&self) -> bool {
        self.state().is_told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fault_counts_once_it_lasts() {
        let watch = CountingWatch::default();
        let shared = |others| Counting::Shared { others };
        watch.compare(shared(1), false, 1);
        assert!(!watch.is_off());
        for (connections, requests_fail, heard) in
            [(Counting::Failing, false, 1), (shared(0), false, 1), (shared(2), true, 2)]
        {
            watch.compare(connections, requests_fail, heard);
            assert!(!watch.is_off(), "a blip");
            tokio::time::advance(BLIP + Duration::from_millis(1)).await;
            watch.compare(connections, requests_fail, heard);
            assert!(watch.is_off(), "{connections:?}");
            watch.compare(shared(heard), false, heard);
            assert!(!watch.is_off());
        }
    }
}
