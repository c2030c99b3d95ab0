//! The circuit breaker of an endpoint. Pure: the current time is an argument.
//!
//! Retries of a single delivery do not open it with up to eight of them, so they come when the contract's table says. A
//! longer run of failures opens it. From then on one probe at a time tells whether the endpoint is back. Its other deliveries stay in the
//! store and cost nothing.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the breaker: more than one delivery has with the default of five retries.
const OPENS_AT: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How many deliveries may be attempted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// As many as the concurrency allows.
    Closed,
    /// One probe, to see whether the endpoint is back.
    HalfOpen,
    /// None.
    Open {
        /// When the next probe is made.
        until: Instant,
    },
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Breaker {
    failures: u32,
    /// The time of the next probe, while the breaker is open.
    probe_at: Option<Instant>,
    pause: Duration,
}

impl Breaker {
    pub(super) fn state(&self, now: Instant) -> BreakerState {
        match self.probe_at {
            None => BreakerState::Closed,
            Some(at) if at <= now => BreakerState::HalfOpen,
            Some(at) => BreakerState::Open { until: at },
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.probe_at.is_some()
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures < OPENS_AT {
            return;
        }
        // Requests that were in flight when it opened tell nothing new.
        if self.probe_at.is_some_and(|at| at > now) {
            return;
        }
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.probe_at = Some(now + self.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_deliverys_retries_do_not_open_it() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..6 {
            breaker.failed(now);
        }
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }

    #[test]
    fn a_dead_endpoint_is_probed_less_and_less_often_and_a_success_closes_it() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        for _ in 0..18 {
            breaker.failed(now);
        }
        for pause in [5, 10, 20, 40, 60, 60] {
            let at = now + Duration::from_secs(pause);
            assert_eq!(breaker.state(now), BreakerState::Open { until: at }, "{pause}");
            now = at;
            assert_eq!(breaker.state(now), BreakerState::HalfOpen);
            breaker.failed(now);
        }
        breaker.succeeded();
        assert_eq!((breaker.state(now), breaker.is_open()), (BreakerState::Closed, false));
        breaker.failed(now);
        assert_eq!(breaker.state(now), BreakerState::Closed, "it counts anew");
    }
}
