//! What a node knows the others by: alone, or over Redis.

use std::sync::Arc;

use oriva_hub_actors::{Partitions, model::NodeId};
use secrecy::ExposeSecret as _;
use tokio::sync::Notify;

use crate::{
    bus::{LocalBus, RedisBus, RedisBusParts},
    config::{Config, ConfigError},
    hub::NodeParts,
    link::Link,
    presence::{LocalPlaces, RedisPlaces, RedisPlacesParts},
};

/// Built, and not yet started: who is online here has to be known first.
pub(super) struct Nodes {
    pub parts: NodeParts,
    /// Redis, where it is configured.
    pub link: Option<Arc<Link>>,
    over_redis: Option<(RedisBusParts, RedisPlacesParts)>,
}

impl Nodes {
    /// # Errors
    /// Where `redis.url` cannot be read.
    pub fn new(config: &Config, epoch: Arc<str>) -> Result<Self, ConfigError> {
        let node = NodeId::generate();
        let Some(url) = &config.redis.url else {
            let bus = Arc::new(LocalBus::new(config.is_embedded()));
            let parts = NodeParts { node, bus, presence: Arc::new(LocalPlaces) };
            return Ok(Self { parts, link: None, over_redis: None });
        };
        // The library's words may repeat the URL, and with it a password.
        let link = Link::new(url.expose_secret(), epoch)
            .map_err(|_| ConfigError("redis.url must be redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]".to_owned()))?;
        let link = Arc::new(link);
        let (bus, bus_parts) = RedisBus::new(link.clone(), node);
        let (presence, places_parts) = RedisPlaces::new(link.clone());
        let parts = NodeParts { node, bus, presence };
        Ok(Self { parts, link: Some(link), over_redis: Some((bus_parts, places_parts)) })
    }

    /// Begins to hear and to tell. What is returned wakes whoever looks after credentials.
    pub fn start(self, online: &Partitions) -> (NodeParts, Arc<Notify>) {
        let credentials = Arc::new(Notify::new());
        if let Some((bus, places)) = self.over_redis {
            bus.start(online.clone(), credentials.clone());
            places.start(online.clone());
        }
        (self.parts, credentials)
    }
}
