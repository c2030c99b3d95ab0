//! A shard with a history in memory: how sessions begin, and what they are told while they do.

use std::{sync::Arc, time::Duration};

use actix::{AsyncContext as _, Context};
use slotmap::SlotMap;

use super::entry::{Entry, RunningSession};
use crate::{
    Realtime, ReservedConnection, Tasks,
    model::{AppId, Identity, Scope, StreamKey, StreamKind, UserId},
    session::{Session, messages::Join},
    socket_loop::key::SocketKey,
    testing::{MemoryHistory, event, offline_ports, realtime_config},
};

struct Bench {
    history: Arc<MemoryHistory>,
    realtime: Realtime,
    keys: SlotMap<SocketKey, ()>,
}

impl Bench {
    fn start() -> Self {
        let history = Arc::new(MemoryHistory::default());
        let realtime = Realtime::start(&realtime_config(), &offline_ports(history.clone()), &Tasks::default());
        Self { history, realtime, keys: SlotMap::with_key() }
    }

    async fn connect(&mut self, user: &str) -> ReservedConnection {
        let (user, issuer) = (UserId::parse(user).unwrap(), AppId::parse("work-buddy").unwrap());
        let identity = Identity::User { user, issuer, key: None, scope: Scope::AllApps };
        let mut connection = self.realtime.acquire(&identity).await.unwrap();
        let socket = self.keys.insert(());
        connection.join(Join {
            socket,
            identity: Arc::new(identity),
            expires_at: None,
            deflate: false,
            subscribe: None,
        });
        connection
    }

    async fn wait_until(&self, what: &str, is_so: impl AsyncFn(&Self) -> bool) {
        for _ in 0..500 {
            if is_so(self).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} did not come about");
    }
}

#[actix::test]
async fn the_heads_of_all_who_came_at_once_are_asked_for_together() {
    let mut bench = Bench::start();
    bench.history.set_delay(Duration::from_millis(100));
    let mut connections = Vec::new();
    for n in 0..300 {
        connections.push(bench.connect(&format!("user{n}")).await);
    }
    bench.wait_until("300 sessions", async |bench| bench.realtime.observe().await.sessions == 300).await;
    let queries = bench.history.head_queries();
    assert!(queries.len() <= 4, "300 sessions began with {queries:?} streams a query");
}

#[actix::test]
async fn who_left_before_the_store_answered_is_not_asked_for() {
    let mut bench = Bench::start();
    bench.history.set_down(true);
    let mut connections = Vec::new();
    for n in 0..50 {
        connections.push(bench.connect(&format!("user{n}")).await);
    }
    connections.truncate(1);
    bench.wait_until("one user", async |bench| bench.realtime.observe().await.users == 1).await;
    bench.history.set_down(false);
    bench.wait_until("one session", async |bench| bench.realtime.observe().await.sessions == 1).await;
    // The one who stayed, and the broadcasts unless their head was read before the store failed.
    let queries = bench.history.head_queries();
    assert!(queries.last().is_some_and(|streams| *streams <= 2), "{queries:?}");
}

#[actix::test]
async fn an_event_routed_before_the_head_is_known_is_not_lost() {
    let mut bench = Bench::start();
    bench.wait_until("the broadcasts' head", async |bench| !bench.history.head_queries().is_empty()).await;
    bench.history.set_delay(Duration::from_millis(200));
    let _connection = bench.connect("alice").await;
    bench.wait_until("the query", async |bench| bench.history.head_queries().len() > 1).await;
    // The head was read as 0; the event is committed and routed before the answer comes.
    bench.history.commit(event("alice", 1, 1));
    bench.realtime.publish(&[event("alice", 1, 1)]);
    bench.wait_until("the page", async |bench| bench.history.pages() == 1).await;
}

#[actix::test]
async fn a_session_that_panicked_begins_anew_for_the_next_socket() {
    let mut bench = Bench::start();
    let _connection = bench.connect("alice").await;
    bench.wait_until("a session", async |bench| bench.realtime.observe().await.sessions == 1).await;
    bench.realtime.panic_session(StreamKey::User(UserId::parse("alice").unwrap()));
    bench.wait_until("its end", async |bench| bench.realtime.observe().await.sessions == 0).await;
    let _second = bench.connect("alice").await;
    bench.wait_until("another", async |bench| bench.realtime.observe().await.sessions == 1).await;
}

#[actix::test]
async fn what_overflows_while_the_heads_are_asked_for_is_resynchronised_too() {
    let context_with_mailbox_of = |capacity| {
        let mut context = Context::<Session>::new();
        context.set_mailbox_capacity(capacity);
        context
    };
    let (full, empty) = (context_with_mailbox_of(1), context_with_mailbox_of(16));
    let mut entry = Entry { session: Some(RunningSession::new(full.address(), 1)), ..Entry::default() };
    let mut offset = 0;
    let mut overflow = |entry: &mut Entry| {
        for _ in 0..10 {
            offset += 1;
            entry.deliver_own(&event("alice", offset, offset), StreamKind::User);
        }
    };
    overflow(&mut entry);
    assert!(entry.take_needs_resync(), "the mailbox was full");
    // The heads are under way, and more is lost; then the session has room again.
    overflow(&mut entry);
    entry.session.as_mut().unwrap().addr = empty.address();
    entry.send_heads(StreamKind::User, 10, 0);
    assert!(entry.take_needs_resync(), "heads that are older than the second loss made it forgotten");
    entry.send_heads(StreamKind::User, 20, 0);
    assert!(!entry.take_needs_resync());
    // A head that does not fit is not forgotten either.
    entry.session.as_mut().unwrap().addr = full.address();
    (30..40).for_each(|head| entry.observe_head(StreamKind::User, head));
    assert!(entry.take_needs_resync());
}
