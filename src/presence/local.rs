//! Places of a node that counts for itself.

use std::collections::HashSet;

use async_trait::async_trait;
use futures_util::{FutureExt as _, future::BoxFuture};
use oriva_hub_actors::{
    model::{Held, StreamKey},
    ports::{Places, PlacesTaken},
};

use super::{Presence, Unknown};

/// A node without Redis: the registry's own count is all there is.
#[derive(Debug, Clone, Copy)]
pub struct LocalPlaces;

impl Places for LocalPlaces {
    fn claim(&self, _: &StreamKey, own: &Held, limit: usize) -> BoxFuture<'static, Result<(), PlacesTaken>> {
        let taken = own.total() > limit;
        async move { if taken { Err(PlacesTaken) } else { Ok(()) } }.boxed()
    }

    fn hold(&self, _: &StreamKey, _: &Held) {}

    fn recount(&self) {}
}

#[async_trait]
impl Presence for LocalPlaces {
    async fn elsewhere(&self, _: &StreamKey) -> Result<Vec<Held>, Unknown> {
        Ok(Vec::new())
    }

    async fn users_elsewhere(&self, _: &HashSet<String>) -> Result<usize, Unknown> {
        Ok(0)
    }

    async fn leave(&self) {}
}
