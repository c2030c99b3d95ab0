//! When a registry compares all its streams with the store. Pure: the moment comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Interval of the comparison while the bus does not hear every node. It bounds how late an event comes then.
pub(super) const INTERVAL: Duration = Duration::from_millis(900);
/// Interval of the comparison while the bus looks healthy. It bounds how late an event comes whose loss nobody noticed.
const PERIODIC: Duration = Duration::from_secs(30);
/// How long a registry goes on comparing after it was told to: a commit whose outcome is unknown may still be on its way.
const WINDOW: Duration = Duration::from_secs(5);

/// One query at a time, and the reasons for the next.
pub(super) struct ResyncSchedule {
    is_running: bool,
    /// A reason came up while a query ran: its answer may be older than the reason.
    run_again: bool,
    /// The last query failed.
    has_failed: bool,
    last_started: Instant,
    until: Option<Instant>,
}

impl ResyncSchedule {
    pub(super) fn new(now: Instant) -> Self {
        Self { is_running: false, run_again: false, has_failed: false, last_started: now, until: None }
    }

    /// Compares for a while from now on.
    pub(super) fn extend(&mut self, now: Instant) {
        self.until = Some(now + WINDOW);
    }

    /// Whether a comparison is due.
    pub(super) fn is_due(&self, now: Instant, bus_is_complete: bool) -> bool {
        self.has_failed
            || self.until.is_some_and(|until| now < until)
            || !bus_is_complete
            || now.duration_since(self.last_started) >= PERIODIC
    }

    /// Asks for a query. Returns whether to start it now; otherwise it follows the one that runs.
    pub(super) fn request(&mut self, now: Instant) -> bool {
        self.run_again = self.is_running;
        if std::mem::replace(&mut self.is_running, true) {
            return false;
        }
        self.last_started = now;
        true
    }

    /// A query ended. Returns whether to start another at once.
    pub(super) fn finish(&mut self, is_ok: bool, now: Instant) -> bool {
        self.has_failed = !is_ok;
        self.is_running = std::mem::take(&mut self.run_again);
        if self.is_running {
            self.last_started = now;
        }
        self.is_running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_query_at_a_time_and_one_more_for_what_came_up_meanwhile() {
        let now = Instant::now();
        let mut schedule = ResyncSchedule::new(now);
        assert!(schedule.request(now));
        for _ in 0..5 {
            assert!(!schedule.request(now), "a store that does not answer is not asked again and again");
        }
        assert!(schedule.finish(true, now), "the answer may be older than the requests");
        assert!(!schedule.finish(true, now));
        assert!(schedule.request(now));
    }

    #[test]
    fn a_healthy_bus_is_checked_rarely_and_any_other_state_often() {
        let now = Instant::now();
        let mut schedule = ResyncSchedule::new(now);
        assert!(!schedule.is_due(now, true));
        assert!(schedule.is_due(now, false));
        assert!(schedule.is_due(now + PERIODIC, true));
        schedule.extend(now);
        assert!(schedule.is_due(now + WINDOW / 2, true) && !schedule.is_due(now + WINDOW, true));
        assert!(schedule.request(now));
        assert!(!schedule.finish(false, now) && schedule.is_due(now + WINDOW, true), "a failed query is repeated");
    }
}
