//! What a node knows the others by: alone, or over Redis.

use std::sync::Arc;

use oriva_hub_actors::{Realtime, model::NodeId};
use secrecy::ExposeSecret as _;
use tokio::sync::Notify;

use crate::{
    bus::{LocalBus, RedisBus, RedisBusParts},
    config::{Config, ConfigError},
    hub::NodeParts,
    client::RedisClient,
    presence::{LocalConnectionLimiter, RedisConnectionLimiter, RedisLimiterParts},
};

/// Built, and not yet started: who is online here has to be known first.
pub(super) struct Nodes {
    pub parts: NodeParts,
    /// Redis, where it is configured.
    pub client: Option<Arc<RedisClient>>,
    over_redis: Option<(RedisBusParts, RedisLimiterParts)>,
}

impl Nodes {
    /// # Errors
    /// Where `redis.url` cannot be read.
    pub fn new(config: &Config, epoch: Arc<str>) -> Result<Self, ConfigError> {
        let node = NodeId::generate();
        let Some(url) = &config.redis.url else {
            let bus = Arc::new(LocalBus::new(config.is_embedded()));
            let parts = NodeParts { node, bus, presence: Arc::new(LocalConnectionLimiter) };
            return Ok(Self { parts, client: None, over_redis: None });
        };
        // The library's words may repeat the URL, and with it a password.
        let client = RedisClient::new(url.expose_secret(), epoch)
            .map_err(|_| ConfigError("redis.url must be redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]".to_owned()))?;
        let client = Arc::new(client);
        let (bus, bus_parts) = RedisBus::new(client.clone(), node);
        let (presence, places_parts) = RedisConnectionLimiter::new(client.clone());
        let parts = NodeParts { node, bus, presence };
        Ok(Self { parts, client: Some(client), over_redis: Some((bus_parts, places_parts)) })
    }

    /// Begins to hear and to tell. What is returned wakes whoever looks after credentials.
    pub fn start(self, online: &Realtime) -> (NodeParts, Arc<Notify>) {
        let credentials = Arc::new(Notify::new());
        if let Some((bus, places)) = self.over_redis {
            bus.start(online.clone(), credentials.clone());
            places.start(online.clone());
        }
        (self.parts, credentials)
    }
}
