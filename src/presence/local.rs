//! Connection counts of a node without Redis: the registry's own count is all there is.

use std::collections::HashSet;

use async_trait::async_trait;
use futures_util::{FutureExt as _, future::BoxFuture};
use oriva_hub_actors::{
    model::{ConnectionCounts, StreamKey},
    ports::{ConnectionLimiter, LimitReached},
};

use super::{Counting, PresenceDirectory, Unknown};

/// Counts nothing itself.
#[derive(Debug, Clone, Copy)]
pub struct LocalConnectionLimiter;

impl ConnectionLimiter for LocalConnectionLimiter {
    fn acquire(
        &self,
        _: &StreamKey,
        own: &ConnectionCounts,
        limit: usize,
    ) -> BoxFuture<'static, Result<(), LimitReached>> {
        let is_over = own.total() > limit;
        async move { if is_over { Err(LimitReached) } else { Ok(()) } }.boxed()
    }

    fn set_count(&self, _: &StreamKey, _: &ConnectionCounts) {}

    fn recount(&self) {}
}

#[async_trait]
impl PresenceDirectory for LocalConnectionLimiter {
    async fn elsewhere(&self, _: &StreamKey) -> Result<Vec<ConnectionCounts>, Unknown> {
        Ok(Vec::new())
    }

    async fn users_elsewhere(&self, _: &HashSet<String>) -> Result<usize, Unknown> {
        Ok(0)
    }

    fn counting(&self) -> Counting {
        Counting::Alone
    }

    async fn leave(&self) {}
}
