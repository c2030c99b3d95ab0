//! How fast an endpoint takes deliveries, and so how many to claim ahead. Pure: the moment comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Finished deliveries are counted in windows of this length.
const WINDOW: Duration = Duration::from_millis(250);
/// A claim brings as many deliveries as are finished in a fifth of a window.
const CLAIMS_PER_WINDOW: usize = 5;

#[derive(Debug)]
pub(super) struct Prefetch {
    window_start: Instant,
    /// Finished in this window.
    count: usize,
    /// Finished in the window before.
    previous_count: usize,
}

impl Prefetch {
    pub(super) fn new(now: Instant) -> Self {
        Self { window_start: now, count: 0, previous_count: 0 }
    }

    pub(super) fn finished(&mut self, now: Instant) {
        self.advance(now);
        self.count += 1;
    }

    /// How many may be claimed ahead of those that can be sent now: they wait some 50 ms.
    pub(super) fn claim_ahead(&mut self, now: Instant) -> usize {
        self.advance(now);
        self.count.max(self.previous_count) / CLAIMS_PER_WINDOW
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.duration_since(self.window_start);
        if passed >= WINDOW {
            self.previous_count = if passed < WINDOW * 2 { self.count } else { 0 };
            (self.count, self.window_start) = (0, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_endpoint_is_claimed_ahead_for_and_a_slow_one_is_not() {
        let claimed_at = Instant::now();
        let mut prefetch = Prefetch::new(claimed_at);
        assert_eq!(prefetch.claim_ahead(claimed_at), 0);
        for n in 0..1000 {
            prefetch.finished(claimed_at + Duration::from_millis(n));
        }
        assert_eq!(prefetch.claim_ahead(claimed_at + Duration::from_secs(1)), 50);
        assert_eq!(prefetch.claim_ahead(claimed_at + Duration::from_secs(2)), 0);
        for n in 0..20 {
            prefetch.finished(claimed_at + Duration::from_secs(2 + n));
        }
        assert_eq!(prefetch.claim_ahead(claimed_at + Duration::from_secs(21)), 0);
    }
}
