//! Rate limits (contract §3): a number of requests in a window, for each caller and class of route.
//!
//! The window is fixed and begins with the caller's first request: "the first N pass, request N + 1 is 429, and at
//! `-Reset` the limit is whole again" is what the contract says, and no leaky bucket does that.

mod local;
mod rate_limit;
mod redis;

use std::{sync::Arc, time::Duration};

use self::redis::RedisLimits;
use local::LocalLimits;
pub use rate_limit::{Class, RateLimit, RateLimitKey, RateLimitStatus, RateLimited};

use crate::{config::RateLimits, redis_client::RedisClient};

/// The configured limits and the requests counted against them.
pub struct Limits {
    config: RateLimits,
    consumed: Counter,
}

/// Where requests are counted.
enum Counter {
    Here(LocalLimits),
    Shared(RedisLimits),
}

impl Limits {
    /// Counts in this process, or with a client in Redis, for all nodes together.
    #[must_use]
    pub fn new(config: RateLimits, client: Option<Arc<RedisClient>>) -> Self {
        let consumed = client
            .map_or_else(|| Counter::Here(LocalLimits::default()), |client| Counter::Shared(RedisLimits::new(client)));
        Self { config, consumed }
    }

    /// The limit of a class: the app's own (`own`), or the configured one.
    #[must_use]
    pub fn limit(&self, class: Class, own: Option<u32>) -> RateLimit {
        let limit = match class {
            Class::Publish => self.config.publish,
            Class::Read => self.config.read,
            Class::Notify => self.config.notify,
            Class::Webhooks => self.config.webhooks,
        };
        RateLimit { requests: own.unwrap_or(limit.limit), window: Duration::from_secs(limit.window_seconds) }
    }

    /// How many requests a window has. `None` if limits are off.
    #[must_use]
    pub fn budget(&self, class: Class, own: Option<u32>) -> Option<u32> {
        self.config.enabled.then(|| self.limit(class, own).requests)
    }

    /// Whether requests are counted by this node alone although they should be counted over all.
    #[must_use]
    pub fn fail(&self) -> bool {
        matches!(&self.consumed, Counter::Shared(limits) if limits.has_failed_lately())
    }

    /// Counts `cost` requests, or none if fewer are left. `None` if limits are off.
    ///
    /// # Errors
    /// [`RateLimited`], with the unchanged status.
    pub async fn consume(
        &self,
        key: &RateLimitKey,
        class: Class,
        own: Option<u32>,
        cost: u32,
    ) -> Result<Option<RateLimitStatus>, RateLimited> {
        if !self.config.enabled {
            return Ok(None);
        }
        let limit = self.limit(class, own);
        match &self.consumed {
            Counter::Here(limits) => limits.consume(key, class, limit, cost),
            Counter::Shared(limits) => limits.consume(key, class, limit, cost).await,
        }
        .map(Some)
    }
}
