//! Rate limits counted in this process.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use moka::{Expiry, sync::Cache};

use super::rate_limit::{Class, RateLimit, RateLimitKey, RateLimitStatus, RateLimited};

/// Greatest number of windows in memory. Beyond it the least recently used one is dropped, and its caller starts a new
/// window.
const MAX_WINDOWS: u64 = 1_000_000;

/// The window of one caller and class.
struct Window {
    opened: Instant,
    length: Duration,
    consumed: Mutex<u32>,
}

/// Windows by caller and class. Each is dropped when it ends.
pub struct LocalLimits(Cache<(RateLimitKey, Class), Arc<Window>>);

impl Default for LocalLimits {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_WINDOWS).expire_after(AtWindowsEnd).build())
    }
}

impl LocalLimits {
    pub(super) fn consume(
        &self,
        key: &RateLimitKey,
        class: Class,
        limit: RateLimit,
        cost: u32,
    ) -> Result<RateLimitStatus, RateLimited> {
        let window = self.0.get_with((key.clone(), class), || {
            Arc::new(Window { opened: Instant::now(), length: limit.window, consumed: Mutex::new(0) })
        });
        let mut consumed = window.consumed.lock().unwrap_or_else(PoisonError::into_inner);
        let reset_in = window.length.saturating_sub(window.opened.elapsed());
        let left = limit.requests.saturating_sub(*consumed);
        let status = |remaining| RateLimitStatus { class, limit, remaining, reset_in };
        if cost > left {
            return Err(RateLimited(status(left)));
        }
        *consumed += cost;
        Ok(status(left - cost))
    }
}

struct AtWindowsEnd;

impl Expiry<(RateLimitKey, Class), Arc<Window>> for AtWindowsEnd {
    fn expire_after_create(&self, _: &(RateLimitKey, Class), window: &Arc<Window>, _: Instant) -> Option<Duration> {
        Some(window.length)
    }
}

#[cfg(test)]
mod tests {
    use oriva_hub_actors::model::AppId;

    use super::*;

    fn consume(limits: &LocalLimits, app: &str, class: Class, cost: u32) -> Result<u32, u32> {
        let limit = RateLimit { requests: 3, window: Duration::from_secs(900) };
        let key = RateLimitKey::App(AppId::parse(app).unwrap());
        limits.consume(&key, class, limit, cost).map(|b| b.remaining).map_err(|e| e.0.remaining)
    }

    #[test]
    fn the_first_n_pass_and_the_next_does_not() {
        let limits = LocalLimits::default();
        let outcomes: Vec<_> = (0..4).map(|_| consume(&limits, "a", Class::Publish, 1)).collect();
        assert_eq!(outcomes, [Ok(2), Ok(1), Ok(0), Err(0)]);
        assert_eq!(consume(&limits, "a", Class::Read, 1), Ok(2), "classes have their own limits");
        assert_eq!(consume(&limits, "b", Class::Publish, 1), Ok(2), "and so have apps");
    }

    #[test]
    fn a_batch_that_does_not_fit_costs_nothing() {
        let limits = LocalLimits::default();
        assert_eq!(consume(&limits, "a", Class::Publish, 4), Err(3));
        assert_eq!(consume(&limits, "a", Class::Publish, 3), Ok(0));
    }
}
