//! A partition without sockets, for the micro benches: what it costs to find the sessions that an event is for.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use slotmap::SlotMap;

use super::Join;
use crate::{
    Ports, Realtime, RealtimeConfig, ReservedConnection,
    model::{AppId, ConnectionCounts, Identity, Offset, PublishedEvent, Scope, StreamKey, UserId},
    ports::{Bus, Credentials, Expiry, ConnectionLimiter, LimitReached, RefreshError, DeliveryReceipts},
    socket_loop::SocketKey,
    testing::{MemoryHistory, event},
};

/// A thread with so many users online.
pub struct Routing {
    online: Realtime,
    users: usize,
    next: Offset,
    _seats: Vec<ReservedConnection>,
}

impl Routing {
    /// Must be called within a running actix `System`.
    ///
    /// # Panics
    /// Where its own input is wrong.
    pub async fn start(users: usize) -> Self {
        let config = RealtimeConfig {
            epoch: "e1".into(),
            shards: 1,
            max_connections: 10,
            heartbeat: std::time::Duration::from_secs(30),
            max_frame_bytes: 65_536,
            max_backlog_bytes: 262_144,
            compress_from: None,
        };
        let nobody = Arc::new(Nobody);
        let ports = Ports {
            history: Arc::new(MemoryHistory::default()),
            credentials: nobody.clone(),
            receipts: nobody.clone(),
            bus: nobody.clone(),
            limiter: nobody,
        };
        let online = Realtime::start(&config, ports);
        let mut keys = SlotMap::<SocketKey, ()>::with_key();
        let mut reserved = Vec::with_capacity(users);
        for n in 0..users {
            let user = UserId::parse(&format!("user{n}")).expect("an id");
            let issuer = AppId::parse("work-buddy").expect("an id");
            let identity = Identity::User { user, issuer, scope: Scope::AllApps };
            reserved.push(online.acquire(&identity).await.expect("a place"));
            let socket = keys.insert(());
            online.join(Join { socket, identity: Arc::new(identity), expires_at: None, deflates: false });
        }
        Self { online, users, next: 0, _seats: reserved }
    }

    /// An event for each of the users, as a writer's batch has them.
    pub fn batch(&mut self) -> Vec<Arc<PublishedEvent>> {
        self.next += 1;
        let app_offset = |n: usize| (self.next - 1) * self.users as Offset + n as Offset + 1;
        (0..self.users).map(|n| event(&format!("user{n}"), self.next, app_offset(n))).collect()
    }

    /// Publishes, and returns when the registry has handed everything on.
    pub async fn route(&self, events: Vec<Arc<PublishedEvent>>) -> usize {
        self.online.publish(&events);
        self.online.observe().await.sessions
    }
}

/// Nobody outside.
struct Nobody;

impl Bus for Nobody {
    fn follow(&self, _: &StreamKey) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn unfollow(&self, _: &StreamKey) {}

    fn is_complete(&self) -> bool {
        true
    }

    fn publish(&self, _: &[Arc<PublishedEvent>]) {}

    fn send_frame(&self, _: &StreamKey, _: &Bytes) {}

    fn resync(&self) {}
}

impl ConnectionLimiter for Nobody {
    fn acquire(&self, _: &StreamKey, _: &ConnectionCounts, _: usize) -> BoxFuture<'static, Result<(), LimitReached>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn set_count(&self, _: &StreamKey, _: &ConnectionCounts) {}

    fn recount(&self) {}
}

impl DeliveryReceipts for Nobody {
    fn pushed(&self, _: &PublishedEvent) {}
}

#[async_trait]
impl Credentials for Nobody {
    async fn refresh(&self, _: &str, _: &Identity) -> Result<Expiry, RefreshError> {
        Err(RefreshError { code: "unauthenticated", message: String::new() })
    }
}
