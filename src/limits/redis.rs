//! Rate limits that all nodes share: one Redis script for each request. While Redis is down, each node counts on its
//! own.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{RedisResult, Script};

use super::{
    local::LocalLimits,
    rate_limit::{Class, RateLimit, RateLimitKey, RateLimitStatus, RateLimited},
};
use crate::redis_client::{Connection, RedisClient};

/// A Redis that takes longer counts as down.
const TIMEOUT: Duration = Duration::from_millis(250);
/// How long this node then counts on its own before it asks Redis again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A failure that is longer ago says nothing of the present: without requests nobody finds out that Redis works again.
const LATELY: Duration = Duration::from_secs(4);

/// Keys: the window. Arguments: limit, cost, length of the window in ms. Returns whether the request passes, what is
/// left, and the time until the window ends in ms.
const CONSUME: &str = r"
local limit, cost = tonumber(ARGV[1]), tonumber(ARGV[2])
local spent = tonumber(redis.call('GET', KEYS[1]) or '0')
local ends_in = redis.call('PTTL', KEYS[1])
if ends_in < 0 then
    spent = 0
    ends_in = tonumber(ARGV[3])
end
if spent + cost > limit then
    return {0, math.max(limit - spent, 0), ends_in}
end
redis.call('SET', KEYS[1], spent + cost, 'PX', ends_in > 0 and ends_in or 1)
return {1, limit - spent - cost, ends_in}
";

/// Rate limits over all nodes.
pub struct RedisLimits {
    client: Arc<RedisClient>,
    script: Script,
    local: LocalLimits,
    retry_at: Mutex<Option<Instant>>,
    is_down: AtomicBool,
}

impl RedisLimits {
    #[must_use]
    pub fn new(client: Arc<RedisClient>) -> Self {
        Self {
            client,
            script: Script::new(CONSUME),
            local: LocalLimits::default(),
            retry_at: Mutex::default(),
            is_down: AtomicBool::new(false),
        }
    }

    pub(super) async fn consume(
        &self,
        key: &RateLimitKey,
        class: Class,
        limit: RateLimit,
        cost: u32,
    ) -> Result<RateLimitStatus, RateLimited> {
        let Some(connection) = self.connection() else { return self.local.consume(key, class, limit, cost) };
        match tokio::time::timeout(TIMEOUT, self.query(connection, key, class, limit, cost)).await {
            Ok(Ok((passes, remaining, ends_in_ms))) => {
                self.is_down.store(false, Ordering::Relaxed);
                let status = RateLimitStatus { class, limit, remaining, reset_in: Duration::from_millis(ends_in_ms) };
                if passes { Ok(status) } else { Err(RateLimited(status)) }
            }
            failed => {
                if !self.is_down.swap(true, Ordering::Relaxed) {
                    let error = failed.ok().and_then(Result::err);
                    let error = error.as_ref().map(|error| error as &(dyn std::error::Error + 'static));
                    tracing::warn!(error, "rate limits are counted by this node alone");
                }
                *self.retry_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + RETRY_PAUSE);
                self.local.consume(key, class, limit, cost)
            }
        }
    }

    /// Whether Redis failed within the last seconds.
    pub(super) fn has_failed_lately(&self) -> bool {
        let rests = *self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
        rests.is_some_and(|until| until + LATELY > Instant::now())
    }

    fn connection(&self) -> Option<Connection> {
        let rests = *self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
        if rests.is_some_and(|until| Instant::now() < until) { None } else { self.client.connection() }
    }

    async fn query(
        &self,
        mut connection: Connection,
        key: &RateLimitKey,
        class: Class,
        limit: RateLimit,
        cost: u32,
    ) -> RedisResult<(bool, u32, u64)> {
        let whose = match key {
            RateLimitKey::App(app) => format!("app:{app}"),
            RateLimitKey::User(app, user) => format!("user:{app}:{user}"),
        };
        self.script
            .key(self.client.name(&format!("spent:{}:{whose}", class.as_str())))
            .arg(limit.requests)
            .arg(cost)
            .arg(u64::try_from(limit.window.as_millis()).unwrap_or(u64::MAX))
            .invoke_async(&mut connection)
            .await
    }
}
