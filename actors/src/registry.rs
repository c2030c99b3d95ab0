//! Who is online on one shard: permits connections, starts sessions, routes events to them, and compares them with the
//! store when something may have been lost.

mod broadcasts;
mod connections;
mod entry;
pub(crate) mod messages;
mod resync;
mod resync_schedule;
mod send_broadcasts;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, MessageResult, ResponseFuture, WrapFuture,
    dev::ContextFutureSpawner,
};
use futures_util::FutureExt as _;
use tokio::{sync::oneshot, time::Instant};

use self::{
    broadcasts::BroadcastFeed,
    entry::{Entry, RunningSession},
    messages::{
        Acquire, ConnectionSnapshot, CountsOf, Observe, Probe, Received, RegistryState, Resync, Route, SendFrame,
        StopAccepting,
    },
    resync_schedule::ResyncSchedule,
};
use crate::{
    connection_permit::{AcquireError, ConnectionEvent, ConnectionPermit},
    context::ShardContext,
    model::{Offset, StreamKey, StreamKind},
    ports::Unavailable,
    protocol::PublishedEvent,
    session::{
        Positions, RETRY, Session,
        messages::{Join, SessionEnded, SessionInput},
    },
};

/// Messages that may wait in the mailbox. Past that the handle notes that the shard needs a resync (see `shard.rs`).
const MAILBOX: usize = 1024;
/// Streams whose heads are asked for in one query.
const STREAMS_PER_QUERY: usize = 1000;
/// Interval at which sessions that lost a message are resynchronised.
const OVERFLOW_INTERVAL: Duration = Duration::from_millis(250);

/// The outcome of a query for heads.
type Heads = Result<Vec<(StreamKey, Offset)>, Unavailable>;

/// The actor.
pub(crate) struct Registry {
    context: Arc<ShardContext>,
    entries: HashMap<StreamKey, Entry>,
    broadcasts: BroadcastFeed,
    resyncs: ResyncSchedule,
    /// Streams whose sessions wait for their head. Asked for together: one query for however many came at once.
    starting: Vec<StreamKey>,
    is_loading_starting: bool,
    is_resyncing_overflowed: bool,
    next_serial: u64,
    is_draining: bool,
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
            broadcasts: BroadcastFeed::default(),
            resyncs: ResyncSchedule::new(Instant::now()),
            starting: Vec::new(),
            is_loading_starting: false,
            is_resyncing_overflowed: false,
            next_serial: 0,
            is_draining: false,
        }
    }

    fn deliver_own(&mut self, stream: &StreamKey, event: &Arc<PublishedEvent>) {
        if let Some(entry) = self.entries.get_mut(stream) {
            entry.deliver_own(event, stream.kind());
        }
    }

    /// Asks the store for heads, in chunks, and passes the outcome to `then`.
    fn load_heads(
        &self,
        streams: Vec<StreamKey>,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Self, Heads, &mut Context<Self>) + 'static,
    ) {
        let history = self.context.ports.history.clone();
        async move {
            let mut heads = Vec::with_capacity(streams.len());
            for chunk in streams.chunks(STREAMS_PER_QUERY) {
                heads.extend(history.heads(chunk).await?);
            }
            Ok(streams.into_iter().zip(heads).collect())
        }
        .into_actor(self)
        .map(move |heads, registry, ctx| then(registry, heads, ctx))
        .spawn(ctx);
    }
}

/// Sessions.
impl Registry {
    /// Gives a socket to its session, or has the session started.
    fn join(&mut self, join: Join, ctx: &mut Context<Self>) {
        let stream = join.identity.stream();
        // No entry: the permit was given back meanwhile, so the socket is gone.
        let Some(entry) = self.entries.get_mut(&stream) else { return };
        if let Some(running) = &entry.session {
            // Unbounded, but one message a socket, and sockets are bounded.
            return running.addr.do_send(SessionInput::Join(join));
        }
        if entry.joining.is_empty() {
            self.starting.push(stream);
        }
        entry.joining.push(join);
        self.load_starting(ctx);
    }

    /// Asks for the heads of all streams whose sessions are to start. What comes while a query runs goes with the next,
    /// and who left meanwhile is not asked for.
    fn load_starting(&mut self, ctx: &mut Context<Self>) {
        let needs_broadcast_head = self.broadcasts.position().is_none();
        let entries = &self.entries;
        self.starting.retain(|stream| entries.get(stream).is_some_and(|entry| !entry.joining.is_empty()));
        if self.is_loading_starting || (self.starting.is_empty() && !needs_broadcast_head) {
            return;
        }
        self.is_loading_starting = true;
        let count = self.starting.len().min(STREAMS_PER_QUERY - 1);
        let broadcast = needs_broadcast_head.then_some(StreamKey::Broadcast);
        let streams: Vec<StreamKey> = broadcast.into_iter().chain(self.starting.drain(..count)).collect();
        let asked = streams.clone();
        self.load_heads(streams, ctx, move |registry, heads, ctx| match heads {
            Ok(heads) => {
                registry.is_loading_starting = false;
                for (stream, head) in heads {
                    registry.on_starting_head(stream, head, ctx);
                }
                registry.load_starting(ctx);
            }
            Err(Unavailable) => {
                registry.starting.extend(asked.into_iter().filter(|stream| *stream != StreamKey::Broadcast));
                tokio::time::sleep(RETRY)
                    .into_actor(registry)
                    .map(|(), registry, ctx| {
                        registry.is_loading_starting = false;
                        registry.load_starting(ctx);
                    })
                    .spawn(ctx);
            }
        });
    }

    fn on_starting_head(&mut self, stream: StreamKey, head: Offset, ctx: &mut Context<Self>) {
        if stream == StreamKey::Broadcast {
            let need = self.broadcasts.start(head);
            return self.advance_broadcasts(need, ctx);
        }
        // Asked for before the sessions, as the first of their query.
        let Some(broadcast) = self.broadcasts.position() else { return };
        let Some(entry) = self.entries.get_mut(&stream) else { return };
        let joining = std::mem::take(&mut entry.joining);
        if joining.is_empty() || entry.session.is_some() {
            return;
        }
        self.next_serial += 1;
        let heads = Positions { own: head, broadcast };
        let (context, kind) = (self.context.clone(), stream.kind());
        let addr = Session::start(context, ctx.address().recipient(), stream, self.next_serial, heads);
        // Unbounded, but one message a session and one a socket, and sockets are bounded.
        if entry.highest_routed > head {
            addr.do_send(SessionInput::ObserveHead { kind, head: entry.highest_routed });
        }
        for join in joining {
            addr.do_send(SessionInput::Join(join));
        }
        entry.session = Some(RunningSession::new(addr, self.next_serial));
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.load_starting(ctx);
        ctx.run_interval(resync_schedule::INTERVAL, |registry, ctx| {
            if registry.resyncs.is_due(Instant::now(), registry.context.ports.bus.is_complete()) {
                registry.resync(ctx);
            }
        });
        ctx.run_interval(OVERFLOW_INTERVAL, Self::resync_overflowed);
    }
}

impl Handler<Acquire> for Registry {
    type Result = ResponseFuture<Result<ConnectionPermit, AcquireError>>;

    fn handle(&mut self, Acquire { stream, scope }: Acquire, ctx: &mut Self::Context) -> Self::Result {
        if self.is_draining {
            return Box::pin(async { Err(AcquireError::Draining) });
        }
        let (answer, answered) = oneshot::channel();
        let entry = self.entries.entry(stream.clone()).or_default();
        if entry.is_unused() {
            entry.followed = Some(self.context.ports.bus.follow(&stream).shared());
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

impl Handler<ConnectionEvent> for Registry {
    type Result = ();

    fn handle(&mut self, event: ConnectionEvent, ctx: &mut Self::Context) {
        let (stream, scope, socket) = match event {
            ConnectionEvent::Joined(join) => return self.join(join, ctx),
            ConnectionEvent::Released { stream, scope, socket } => (stream, scope, socket),
        };
        let Some(entry) = self.entries.get_mut(&stream) else { return };
        entry.counts.remove(&scope);
        self.context.connections.fetch_sub(1, Ordering::SeqCst);
        self.context.ports.limiter.set_count(&stream, &entry.counts);
        if let Some(socket) = socket {
            entry.socket_left(socket);
        }
        self.remove_if_vacant(&stream);
    }
}

impl Handler<Route> for Registry {
    type Result = ();

    fn handle(&mut self, Route { events }: Route, ctx: &mut Self::Context) {
        for event in events {
            if let Some(user) = &event.event().user_id {
                self.deliver_own(&StreamKey::User(user.clone()), &event);
            }
            self.deliver_own(&StreamKey::App(event.event().app_id.clone()), &event);
            if event.event().offsets.broadcast.is_some() {
                let need = self.broadcasts.accept(event);
                self.advance_broadcasts(need, ctx);
            }
        }
    }
}

impl Handler<Received> for Registry {
    type Result = ();

    fn handle(&mut self, Received { events }: Received, ctx: &mut Self::Context) {
        for (stream, event) in events {
            if stream == StreamKey::Broadcast {
                let need = self.broadcasts.accept(event);
                self.advance_broadcasts(need, ctx);
            } else if let Some(entry) = self.entries.get_mut(&stream) {
                entry.deliver(&event, stream.kind());
            } else {
                // A subscription left over from somebody who is gone.
                self.context.ports.bus.unfollow(&stream);
            }
        }
    }
}

impl Handler<Resync> for Registry {
    type Result = ();

    fn handle(&mut self, _: Resync, ctx: &mut Self::Context) {
        self.resyncs.extend(Instant::now());
        self.resync(ctx);
    }
}

impl Handler<SendFrame> for Registry {
    type Result = ();

    fn handle(&mut self, SendFrame { stream, frame }: SendFrame, _: &mut Self::Context) {
        if let Some(running) = self.entries.get(&stream).and_then(|entry| entry.session.as_ref()) {
            let _ = running.addr.try_send(SessionInput::SendFrame { frame });
        }
    }
}

impl Handler<Probe> for Registry {
    type Result = ();

    fn handle(&mut self, Probe { stream }: Probe, _: &mut Self::Context) {
        if let Some(entry) = self.entries.get(&stream) {
            entry.probe();
        }
    }
}

impl Handler<SessionEnded> for Registry {
    type Result = ();

    fn handle(&mut self, SessionEnded { stream, serial }: SessionEnded, _: &mut Self::Context) {
        // Its sockets give back their permits as they close.
        if let Some(entry) = self.entries.get_mut(&stream)
            && entry.session.as_ref().is_some_and(|running| running.serial == serial)
        {
            entry.session = None;
        }
    }
}

impl Handler<StopAccepting> for Registry {
    type Result = ();

    fn handle(&mut self, _: StopAccepting, _: &mut Self::Context) {
        self.is_draining = true;
    }
}

impl Handler<CountsOf> for Registry {
    type Result = MessageResult<CountsOf>;

    fn handle(&mut self, CountsOf { stream }: CountsOf, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.entries.get(&stream).map(|entry| entry.counts.clone()).unwrap_or_default())
    }
}

impl Handler<ConnectionSnapshot> for Registry {
    type Result = MessageResult<ConnectionSnapshot>;

    fn handle(&mut self, _: ConnectionSnapshot, _: &mut Self::Context) -> Self::Result {
        // A request counts as granted: its answer may be here already and wait for this registry's turn.
        let counts = |entry: &Entry| entry.requested.as_ref().unwrap_or(&entry.counts).clone();
        let all = self.entries.iter().map(|(stream, entry)| (stream.clone(), counts(entry)));
        MessageResult(all.filter(|(_, counts)| counts.total() > 0).collect())
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
impl Handler<messages::PanicSession> for Registry {
    type Result = ();

    fn handle(&mut self, message: messages::PanicSession, _: &mut Self::Context) {
        if let Some(running) = self.entries.get(&message.stream).and_then(|entry| entry.session.as_ref()) {
            running.addr.do_send(SessionInput::Panic);
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl Handler<messages::PanicRegistry> for Registry {
    type Result = ();

    fn handle(&mut self, _: messages::PanicRegistry, _: &mut Self::Context) {
        panic!("the registry was told to panic");
    }
}
