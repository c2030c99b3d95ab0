//! This node's clock beside the database's. A clock that is far off refuses valid tokens, or accepts ended ones.

use std::sync::atomic::{AtomicI64, Ordering};

use oriva_hub_actors::{metric_names, model::Timestamp};

/// From this difference on the node is degraded: small beside a token's usual life of an hour, and more than a slow answer.
const FAR_OFF_MS: i64 = 10_000;

/// The last comparison.
#[derive(Debug, Default)]
pub(super) struct Clock {
    ahead_ms: AtomicI64,
}

impl Clock {
    /// Compares. The database said its time between `before` and `after` by this node's clock.
    pub(super) fn compare(&self, before: Timestamp, after: Timestamp, database: Timestamp) {
        let (before, after, database) = (before.unix_ms(), after.unix_ms(), database.unix_ms());
        // Zero if the database's time lies between the two: then nothing is known to be wrong.
        let ahead = if database < before { before - database } else { after.min(database) - database };
        metrics::gauge!(metric_names::CLOCK_AHEAD).set(ahead as f64 / 1000.0);
        let earlier = self.ahead_ms.swap(ahead, Ordering::SeqCst);
        match (earlier.abs() >= FAR_OFF_MS, ahead.abs() >= FAR_OFF_MS) {
            (false, true) => tracing::warn!(
                ahead_ms = ahead,
                "this node's clock is not the database's; tokens are refused or accepted wrongly: set the clock (NTP)"
            ),
            (true, false) => tracing::info!("this node's clock is right again"),
            _ => {}
        }
    }

    /// Whether tokens are judged wrongly.
    pub(super) fn is_far_off(&self) -> bool {
        self.ahead_ms.load(Ordering::SeqCst).abs() >= FAR_OFF_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        let at = Timestamp::from_unix_ms;
        let clock = Clock::default();
        clock.compare(at(100_000), at(130_000), at(101_000));
        assert!(!clock.is_far_off());
        clock.compare(at(100_000), at(100_010), at(90_001));
        assert!(!clock.is_far_off(), "by 9.999 s");
        clock.compare(at(100_000), at(100_010), at(90_000));
        assert!(clock.is_far_off(), "ahead");
        clock.compare(at(100_000), at(100_010), at(3_700_000));
        assert!(clock.is_far_off(), "behind");
        clock.compare(at(100_000), at(100_010), at(100_005));
        assert!(!clock.is_far_off());
    }
}
