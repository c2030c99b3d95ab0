//! Who is online on one thread: takes places, starts sessions, and routes events to them.

#[cfg(feature = "testing")]
pub(crate) mod bench;
mod heads;
mod entry;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, MessageResult, ResponseFuture,
    dev::ContextFutureSpawner, fut::wrap_future,
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use self::{
    heads::Heads,
    entry::{Entry, Online},
};
use crate::{
    model::{ConnectionCounts, Identity, PublishedEvent, Scope, StreamKey, StreamKind, Timestamp},
    realtime::ShardContext,
    socket_loop::SocketKey,
    session::{Session, ToSession},
};

pub use self::entry::ConnectionPermit;

/// Batches that may wait for a registry; past that the handle remembers that something was lost (see `shards`).
const MAILBOX: usize = 1024;
/// How often sessions that lost a message are told to compare themselves with the store.
const RESYNC_INTERVAL: Duration = Duration::from_millis(250);

/// Why no place was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    #[error("{limit} connections are open already")]
    LimitReached { limit: usize },
    #[error("this node takes no new connections now")]
    Draining,
}

/// What a registry looks like from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegistryState {
    pub sessions: usize,
    pub connections: usize,
    /// Users with at least one place, or asking for one.
    pub users: usize,
}

/// Takes a place for a socket to be.
#[derive(Message)]
#[rtype(result = "Result<ConnectionPermit, AcquireError>")]
pub(crate) struct Acquire {
    pub stream: StreamKey,
    pub scope: Scope,
}

/// A socket is open and wants its session. Sent by the pump.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Join {
    pub socket: SocketKey,
    pub identity: Arc<Identity>,
    pub expires_at: Option<Timestamp>,
    /// It agreed on compressed messages.
    pub deflates: bool,
}

/// Committed events, in the order of commit.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Route {
    pub events: Vec<Arc<PublishedEvent>>,
}

/// Events that other nodes committed, each with the one stream that it was heard on.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Received {
    pub events: Vec<(StreamKey, Arc<PublishedEvent>)>,
}

/// Something may have been lost on the way here: compare with the store, now and for a while.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Resync;

/// What every user and app here holds.
#[derive(Message)]
#[rtype(result = "Vec<(StreamKey, ConnectionCounts)>")]
pub(crate) struct ConnectionSnapshot;

/// Something to say to everybody of a stream, beside its events.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct SendFrame {
    pub stream: StreamKey,
    pub frame: Bytes,
}

/// What one user or app here holds.
#[derive(Message)]
#[rtype(result = "ConnectionCounts")]
pub(crate) struct CountsOf {
    pub stream: StreamKey,
}

/// No new places from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopAccepting;

#[derive(Message)]
#[rtype(result = "RegistryState")]
pub(crate) struct Observe;

/// A session is over, by its end or by its panic.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct SessionEnded {
    pub stream: StreamKey,
    pub serial: u64,
}

/// Makes a user's session panic, to prove that nobody else notices.
#[cfg(any(test, feature = "testing"))]
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct PanicSession {
    pub stream: StreamKey,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Release {
    stream: StreamKey,
    scope: Scope,
    socket: Option<SocketKey>,
}

pub(crate) struct Registry {
    context: Arc<ShardContext>,
    entries: HashMap<StreamKey, Entry>,
    heads: Heads,
    waiting: Vec<Join>,
    next_serial: u64,
    closed: bool,
}

impl Registry {
    pub(crate) fn start(context: Arc<ShardContext>) -> Addr<Self> {
        Self::create(|ctx| Self::new(context, ctx))
    }

    pub(crate) fn new(context: Arc<ShardContext>, ctx: &mut Context<Self>) -> Self {
        ctx.set_mailbox_capacity(MAILBOX);
        context.connections.store(0, Ordering::SeqCst);
        Self {
            context,
            entries: HashMap::new(),
            heads: Heads::default(),
            waiting: Vec::new(),
            next_serial: 0,
            closed: false,
        }
    }

    fn deliver(&mut self, stream: &StreamKey, event: &Arc<PublishedEvent>) {
        if let Some(entry) = self.entries.get_mut(stream) {
            entry.deliver_own(event, stream.kind());
        }
    }

    fn join(&mut self, join: Join, ctx: &Context<Self>) {
        let Some(broadcast) = &self.heads.broadcast else { return self.waiting.push(join) };
        let stream = join.identity.stream();
        let Some(entry) = self.entries.get_mut(&stream) else {
            // Its place was given back in the meantime: it is gone.
            return;
        };
        let online = entry.session.get_or_insert_with(|| {
            self.next_serial += 1;
            let serial = self.next_serial;
            let addr = Session::start(self.context.clone(), ctx.address(), stream, serial, broadcast.position());
            Online::new(addr, serial)
        });
        // One message a socket, and sockets are bounded.
        online.addr.do_send(ToSession::Join(join));
    }
}

impl Registry {
    /// Claims places for those who ask, one after the other: a claim says how many this node would then hold.
    fn acquire_next(&mut self, stream: &StreamKey, ctx: &mut Context<Self>) {
        let limit = self.context.config.max_connections;
        let Some(entry) = self.entries.get_mut(stream) else { return };
        while entry.requested.is_none()
            && let Some((scope, answer)) = entry.acquiring.pop_front()
        {
            if entry.counts.total() >= limit {
                let _ = answer.send(Err(AcquireError::LimitReached { limit }));
                continue;
            }
            if entry.acquiring.is_empty() {
                // A user at rest owns no queue.
                entry.acquiring = VecDeque::new();
            }
            let mut requested = entry.counts.clone();
            requested.add(&scope);
            entry.requested = Some(requested.clone());
            let stream = stream.clone();
            let claimed = self.context.limiter.acquire(&stream, &requested, limit);
            wrap_future::<_, Self>(claimed)
                .map(move |claimed, registry, ctx| {
                    let Some(entry) = registry.entries.get_mut(&stream) else { return };
                    entry.requested = None;
                    if claimed.is_err() {
                        // A count that was made meanwhile took it for given.
                        registry.context.limiter.set_count(&stream, &entry.counts);
                    }
                    let permit = claimed.map_err(|_| AcquireError::LimitReached { limit }).map(|()| {
                        entry.counts.add(&scope);
                        registry.context.connections.fetch_add(1, Ordering::SeqCst);
                        if entry.counts != requested {
                            // Somebody went in the meantime.
                            registry.context.limiter.set_count(&stream, &entry.counts);
                        }
                        ConnectionPermit::new(ctx.address(), stream.clone(), scope)
                    });
                    // Where nobody waits for it any more, the place is given back by its drop.
                    let _ = answer.send(permit);
                    registry.acquire_next(&stream, ctx);
                    registry.remove_if_unused(&stream);
                })
                .spawn(ctx);
        }
        self.remove_if_unused(stream);
    }

    fn remove_if_unused(&mut self, stream: &StreamKey) {
        if self.entries.get(stream).is_some_and(Entry::is_vacant) {
            // The session's last address goes with the entry, and so it ends.
            self.entries.remove(stream);
            self.context.bus.unfollow(stream);
        }
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.start_reconciling(ctx);
        ctx.run_interval(RESYNC_INTERVAL, |registry, _| registry.entries.values_mut().for_each(Entry::resync_if_needed));
    }
}

impl Handler<Acquire> for Registry {
    type Result = ResponseFuture<Result<ConnectionPermit, AcquireError>>;

    fn handle(&mut self, Acquire { stream, scope }: Acquire, ctx: &mut Self::Context) -> Self::Result {
        if self.closed {
            return Box::pin(async { Err(AcquireError::Draining) });
        }
        let (answer, answered) = oneshot::channel();
        let entry = self.entries.entry(stream.clone()).or_default();
        if entry.is_unused() {
            entry.followed = Some(self.context.bus.follow(&stream).shared());
        }
        entry.acquiring.push_back((scope, answer));
        let followed = entry.followed.clone();
        self.acquire_next(&stream, ctx);
        Box::pin(async move {
            let permit = answered.await.map_err(|_| AcquireError::Draining)??;
            if let Some(followed) = followed {
                followed.await;
            }
            Ok(permit)
        })
    }
}

impl Handler<Release> for Registry {
    type Result = ();

    fn handle(&mut self, Release { stream, scope, socket }: Release, _: &mut Self::Context) {
        if let Some(socket) = socket {
            self.waiting.retain(|join| join.socket != socket);
        }
        let Some(entry) = self.entries.get_mut(&stream) else { return };
        entry.counts.remove(&scope);
        self.context.connections.fetch_sub(1, Ordering::SeqCst);
        self.context.limiter.set_count(&stream, &entry.counts);
        if let (Some(online), Some(socket)) = (&entry.session, socket) {
            // One message a socket, and sockets are bounded.
            online.addr.do_send(ToSession::Left { socket });
        }
        self.remove_if_unused(&stream);
    }
}

impl Handler<Join> for Registry {
    type Result = ();

    fn handle(&mut self, join: Join, ctx: &mut Self::Context) {
        self.join(join, ctx);
    }
}

impl Handler<Route> for Registry {
    type Result = ();

    fn handle(&mut self, Route { events }: Route, ctx: &mut Self::Context) {
        for event in events {
            if let Some(user) = &event.event().user_id {
                self.deliver(&StreamKey::User(user.clone()), &event);
            }
            self.deliver(&StreamKey::App(event.event().app_id.clone()), &event);
            if event.event().offsets.broadcast.is_some() {
                self.accept_broadcast(event, ctx);
            }
        }
    }
}

impl Handler<Received> for Registry {
    type Result = ();

    fn handle(&mut self, Received { events }: Received, ctx: &mut Self::Context) {
        for (stream, event) in events {
            if stream == StreamKey::Broadcast {
                self.accept_broadcast(event, ctx);
            } else if let Some(entry) = self.entries.get_mut(&stream) {
                entry.deliver(&event, stream.kind());
            } else {
                // Left over from somebody who is gone.
                self.context.bus.unfollow(&stream);
            }
        }
    }
}

impl Handler<CountsOf> for Registry {
    type Result = MessageResult<CountsOf>;

    fn handle(&mut self, CountsOf { stream }: CountsOf, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.entries.get(&stream).map(|entry| entry.counts.clone()).unwrap_or_default())
    }
}

impl Handler<Resync> for Registry {
    type Result = ();

    fn handle(&mut self, _: Resync, ctx: &mut Self::Context) {
        self.resync(ctx);
    }
}

impl Handler<ConnectionSnapshot> for Registry {
    type Result = MessageResult<ConnectionSnapshot>;

    fn handle(&mut self, _: ConnectionSnapshot, _: &mut Self::Context) -> Self::Result {
        // What is claimed counts: its answer may be there already, and waits for this registry's turn.
        let counts = |entry: &Entry| entry.requested.as_ref().unwrap_or(&entry.counts).clone();
        let all = self.entries.iter().map(|(stream, entry)| (stream.clone(), counts(entry)));
        MessageResult(all.filter(|(_, counts)| counts.total() > 0).collect())
    }
}

impl Handler<SendFrame> for Registry {
    type Result = ();

    fn handle(&mut self, SendFrame { stream, frame }: SendFrame, _: &mut Self::Context) {
        if let Some(online) = self.entries.get(&stream).and_then(|entry| entry.session.as_ref()) {
            let _ = online.addr.try_send(ToSession::SendFrame { frame });
        }
    }
}

impl Handler<StopAccepting> for Registry {
    type Result = ();

    fn handle(&mut self, _: StopAccepting, _: &mut Self::Context) {
        self.closed = true;
    }
}

impl Handler<SessionEnded> for Registry {
    type Result = ();

    fn handle(&mut self, SessionEnded { stream, serial }: SessionEnded, _: &mut Self::Context) {
        // Its sockets give back their own places as they close.
        if let Some(entry) = self.entries.get_mut(&stream)
            && entry.session.as_ref().is_some_and(|online| online.serial == serial)
        {
            entry.session = None;
        }
    }
}

impl Handler<Observe> for Registry {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(RegistryState {
            sessions: self.entries.values().filter(|entry| entry.session.is_some()).count(),
            connections: self.entries.values().map(|entry| entry.counts.total()).sum(),
            users: self.entries.keys().filter(|stream| stream.kind() == StreamKind::User).count(),
        })
    }
}

#[cfg(any(test, feature = "testing"))]
impl Handler<PanicSession> for Registry {
    type Result = ();

    fn handle(&mut self, PanicSession { stream }: PanicSession, _: &mut Self::Context) {
        if let Some(online) = self.entries.get(&stream).and_then(|entry| entry.session.as_ref()) {
            online.addr.do_send(ToSession::Panic);
        }
    }
}
