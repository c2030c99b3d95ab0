//! A shard without sockets, for the micro benches: what it costs to find the sessions that an event is for.

use std::sync::Arc;

use slotmap::SlotMap;

use super::{MemoryHistory, event, offline_ports, realtime_config};
use crate::{
    Realtime, ReservedConnection, Tasks,
    model::{AppId, Identity, Offset, Scope, UserId},
    protocol::PublishedEvent,
    session::messages::Join,
    socket_loop::key::SocketKey,
};

/// A thread with so many users online.
pub struct Routing {
    realtime: Realtime,
    users: usize,
    next: Offset,
    _reserved: Vec<ReservedConnection>,
}

impl Routing {
    /// Must be called within a running actix `System`.
    ///
    /// # Panics
    /// Where its own input is wrong.
    pub async fn start(users: usize) -> Self {
        let ports = offline_ports(Arc::new(MemoryHistory::default()));
        let realtime = Realtime::start(&realtime_config(), &ports, &Tasks::default());
        let mut keys = SlotMap::<SocketKey, ()>::with_key();
        let mut reserved = Vec::with_capacity(users);
        for n in 0..users {
            let user = UserId::parse(&format!("user{n}")).expect("an id");
            let issuer = AppId::parse("work-buddy").expect("an id");
            let identity = Identity::User { user, issuer, key: None, scope: Scope::AllApps };
            let mut connection = realtime.acquire(&identity).await.expect("a permit");
            let socket = keys.insert(());
            connection.join(Join {
                socket,
                identity: Arc::new(identity),
                expires_at: None,
                deflate: false,
                subscribe: None,
            });
            reserved.push(connection);
        }
        Self { realtime, users, next: 0, _reserved: reserved }
    }

    /// An event for each of the users, as a writer's batch has them.
    pub fn batch(&mut self) -> Vec<Arc<PublishedEvent>> {
        self.next += 1;
        let app_offset = |n: usize| (self.next - 1) * self.users as Offset + n as Offset + 1;
        (0..self.users).map(|n| event(&format!("user{n}"), self.next, app_offset(n))).collect()
    }

    /// Publishes, and returns when the registry has handed everything on.
    pub async fn route(&self, events: Vec<Arc<PublishedEvent>>) -> usize {
        self.realtime.publish(&events);
        self.realtime.observe().await.sessions
    }
}
