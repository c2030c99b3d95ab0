//! Budgets counted in this process.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use moka::{Expiry, sync::Cache};

use super::{Budget, Class, Exhausted, Quota, Spender};

/// Windows remembered; past that the longest unused are forgotten, and their spenders begin anew.
const REMEMBERED: u64 = 1_000_000;

/// One spender's window.
struct Window {
    connections: Instant,
    length: Duration,
    spent: Mutex<u32>,
}

/// Windows by spender and class, each forgotten when it ends.
pub struct LocalLimits(Cache<(Spender, Class), Arc<Window>>);

impl Default for LocalLimits {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(REMEMBERED).expire_after(AtWindowsEnd).build())
    }
}

impl LocalLimits {
    pub(super) fn spend(&self, spender: &Spender, class: Class, quota: Quota, cost: u32) -> Result<Budget, Exhausted> {
        let window = self.0.get_with((spender.clone(), class), || {
            Arc::new(Window { connections: Instant::now(), length: quota.window, spent: Mutex::new(0) })
        });
        let mut spent = window.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let reset_in = window.length.saturating_sub(window.connections.elapsed());
        let left = quota.limit.saturating_sub(*spent);
        let budget = |remaining| Budget { class, quota, remaining, reset_in };
        if cost > left {
            return Err(Exhausted(budget(left)));
        }
        *spent += cost;
        Ok(budget(left - cost))
    }
}

struct AtWindowsEnd;

impl Expiry<(Spender, Class), Arc<Window>> for AtWindowsEnd {
    fn expire_after_create(&self, _: &(Spender, Class), window: &Arc<Window>, _: Instant) -> Option<Duration> {
        Some(window.length)
    }
}

#[cfg(test)]
mod tests {
    use oriva_hub_actors::model::AppId;

    use super::*;

    fn spend(limits: &LocalLimits, app: &str, class: Class, cost: u32) -> Result<u32, u32> {
        let quota = Quota { limit: 3, window: Duration::from_secs(900) };
        let spender = Spender::App(AppId::parse(app).unwrap());
        limits.spend(&spender, class, quota, cost).map(|b| b.remaining).map_err(|e| e.0.remaining)
    }

    #[test]
    fn the_first_n_pass_and_the_next_does_not() {
        let limits = LocalLimits::default();
        let outcomes: Vec<_> = (0..4).map(|_| spend(&limits, "a", Class::Publish, 1)).collect();
        assert_eq!(outcomes, [Ok(2), Ok(1), Ok(0), Err(0)]);
        assert_eq!(spend(&limits, "a", Class::Read, 1), Ok(2), "classes have their own budgets");
        assert_eq!(spend(&limits, "b", Class::Publish, 1), Ok(2), "and so have apps");
    }

    #[test]
    fn a_batch_that_does_not_fit_costs_nothing() {
        let limits = LocalLimits::default();
        assert_eq!(spend(&limits, "a", Class::Publish, 4), Err(3));
        assert_eq!(spend(&limits, "a", Class::Publish, 3), Ok(0));
    }
}
