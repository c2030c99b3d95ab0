//! Who is online on one thread: takes places, starts sessions, routes events to them, and orders the broadcast stream
//! for all of them at once.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::{
    Actor, Addr, AsyncContext, Context, Handler, Message, MessageResult, WrapFuture,
    dev::{ContextFutureSpawner, SendError},
    fut::ActorFutureExt,
};

use bytes::Bytes;

use crate::{
    follower::{Follower, HeadQuery, Need},
    model::{Identity, Offset, Published, StreamKey, StreamKind, Timestamp},
    partitions::Wiring,
    ports::{Page, Unavailable},
    pump::SocketKey,
    session::{PAGE, RETRY, Session, ToSession},
};

/// Batches that may wait for a registry; past that the handle remembers that something was lost (see `partitions`).
const MAILBOX: usize = 1024;
/// Streams asked for at once.
const POLLED: usize = 1000;
/// How often sessions that lost a message are told to compare themselves with the store.
const MENDING: Duration = Duration::from_millis(250);

/// A connection place of a user or an app on this node; given back when dropped.
#[derive(Debug)]
pub struct Place {
    registry: Addr<Registry>,
    stream: StreamKey,
    socket: Option<SocketKey>,
}

impl Place {
    pub(crate) fn taken_by(&mut self, socket: SocketKey) {
        self.socket = Some(socket);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // One message a place, and places are bounded.
        self.registry.do_send(Vacate { stream: self.stream.clone(), socket: self.socket });
    }
}

/// Why no place was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    #[error("{limit} connections are open already")]
    Full { limit: usize },
    #[error("this node takes no new connections now")]
    Closed,
}

/// What a registry looks like from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegistryState {
    pub sessions: usize,
    pub places: usize,
}

/// Takes a place for a socket to be.
#[derive(Message)]
#[rtype(result = "Result<Place, NoPlace>")]
pub(crate) struct Reserve {
    pub stream: StreamKey,
}

/// A socket is open and wants its session. Sent by the pump.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Join {
    pub socket: SocketKey,
    pub identity: Arc<Identity>,
    pub expires_at: Option<Timestamp>,
}

/// Committed events, in the order of commit.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Route {
    pub events: Vec<Arc<Published>>,
}

/// Something may have been lost on the way here: compare with the store.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct CatchUp;

/// Something to say to everybody of a stream, beside its events.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Tell {
    pub stream: StreamKey,
    pub frame: Bytes,
}

/// No new places from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct TakeNoMore;

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
struct Vacate {
    stream: StreamKey,
    socket: Option<SocketKey>,
}

#[derive(Default)]
struct Entry {
    places: usize,
    session: Option<Online>,
}

struct Online {
    addr: Addr<Session>,
    serial: u64,
    /// A message did not fit its mailbox.
    lost_one: bool,
    /// The highest offset of its stream that it was told of.
    told: Offset,
}

pub(crate) struct Registry {
    wiring: Arc<Wiring>,
    entries: HashMap<StreamKey, Entry>,
    /// `None` until the stream's end is known; who joins before waits.
    broadcast: Option<Follower>,
    /// The highest broadcast heard of before that. The end that is asked for may have been read just before it.
    announced: Offset,
    broadcast_end: HeadQuery,
    polling: bool,
    waiting: Vec<Join>,
    next_serial: u64,
    closed: bool,
}

impl Registry {
    pub(crate) fn start(wiring: Arc<Wiring>) -> Addr<Self> {
        Self::create(|ctx| Self::new(wiring, ctx))
    }

    pub(crate) fn new(wiring: Arc<Wiring>, ctx: &mut Context<Self>) -> Self {
        ctx.set_mailbox_capacity(MAILBOX);
        wiring.places.store(0, Ordering::SeqCst);
        Self {
            wiring,
            entries: HashMap::new(),
            broadcast: None,
            announced: 0,
            broadcast_end: HeadQuery::default(),
            polling: false,
            waiting: Vec::new(),
            next_serial: 0,
            closed: false,
        }
    }

    fn ask_for_broadcast_end(&mut self, ctx: &mut Context<Self>) {
        if self.broadcast_end.ask() {
            self.load_broadcast_head(ctx);
        }
    }

    /// Has every session hear how far its stream reaches: so events that nobody told of come at most one poll late. Many
    /// streams a question, and one question at a time.
    fn poll(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.polling, true) {
            return;
        }
        let online = self.entries.iter().filter(|(_, entry)| entry.session.is_some());
        let streams: Vec<StreamKey> =
            std::iter::once(StreamKey::Broadcast).chain(online.map(|(stream, _)| stream.clone())).collect();
        let history = self.wiring.history.clone();
        async move {
            let mut heads = Vec::with_capacity(streams.len());
            for page in streams.chunks(POLLED) {
                heads.extend(history.heads(page).await?);
            }
            Ok::<_, Unavailable>(streams.into_iter().zip(heads).collect::<Vec<_>>())
        }
        .into_actor(self)
        .map(|heads, registry, ctx| {
            registry.polling = false;
            for (stream, head) in heads.unwrap_or_default() {
                if let Some(entry) = registry.entries.get_mut(&stream) {
                    entry.learn(head);
                } else if let (StreamKey::Broadcast, Some(follower)) = (&stream, &mut registry.broadcast) {
                    let need = follower.learn(head);
                    registry.fulfil(need, ctx);
                }
            }
        })
        .spawn(ctx);
    }

    fn load_broadcast_head(&self, ctx: &mut Context<Self>) {
        let history = self.wiring.history.clone();
        async move {
            loop {
                if let Ok(head) = history.head(&StreamKey::Broadcast).await {
                    return head;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
        .into_actor(self)
        .map(|head, registry, ctx| registry.on_broadcast_head(head, ctx))
        .spawn(ctx);
    }

    fn on_broadcast_head(&mut self, head: Offset, ctx: &mut Context<Self>) {
        if self.broadcast_end.answered() {
            self.load_broadcast_head(ctx);
        }
        match &mut self.broadcast {
            None => {
                let mut follower = Follower::at(StreamKind::Broadcast, head);
                let need = follower.learn(self.announced);
                self.broadcast = Some(follower);
                self.fulfil(need, ctx);
                for join in std::mem::take(&mut self.waiting) {
                    self.join(join, ctx);
                }
            }
            Some(follower) => {
                let need = follower.learn(head);
                self.fulfil(need, ctx);
            }
        }
    }

    fn fulfil(&self, need: Need, ctx: &mut Context<Self>) {
        let Need::Page { after } = need else { return };
        let history = self.wiring.history.clone();
        async move {
            let page = history.page(&StreamKey::Broadcast, after, PAGE).await;
            if page.is_err() {
                tokio::time::sleep(RETRY).await;
            }
            page
        }
        .into_actor(self)
        .map(|page, registry, ctx| registry.on_broadcast_page(page, ctx))
        .spawn(ctx);
    }

    fn on_broadcast_page(&mut self, page: Result<Page, Unavailable>, ctx: &mut Context<Self>) {
        let Some(follower) = &mut self.broadcast else { return };
        let mut ready = Vec::new();
        let need = match page {
            Ok(page) => follower.page(page, &mut ready),
            Err(Unavailable) => follower.failed(),
        };
        self.broadcast(&ready);
        self.fulfil(need, ctx);
    }

    fn broadcast(&mut self, ready: &[Arc<Published>]) {
        for event in ready {
            for (stream, entry) in &mut self.entries {
                if matches!(stream, StreamKey::User(_)) {
                    entry.deliver(event, StreamKind::Broadcast);
                }
            }
        }
    }

    fn deliver(&mut self, stream: &StreamKey, event: &Arc<Published>) {
        if let Some(entry) = self.entries.get_mut(stream) {
            entry.deliver(event, stream.kind());
        }
    }

    fn join(&mut self, join: Join, ctx: &Context<Self>) {
        let Some(broadcast) = &self.broadcast else { return self.waiting.push(join) };
        let stream = join.identity.stream();
        let Some(entry) = self.entries.get_mut(&stream) else {
            // Its place was given back in the meantime: it is gone.
            return;
        };
        let online = entry.session.get_or_insert_with(|| {
            self.next_serial += 1;
            let serial = self.next_serial;
            let addr = Session::start(self.wiring.clone(), ctx.address(), stream, serial, broadcast.position());
            Online { addr, serial, lost_one: false, told: 0 }
        });
        // One message a socket, and sockets are bounded.
        online.addr.do_send(ToSession::Join(join));
    }
}

impl Entry {
    fn deliver(&mut self, event: &Arc<Published>, kind: StreamKind) {
        let Some(online) = &mut self.session else { return };
        if kind != StreamKind::Broadcast {
            online.told = online.told.max(event.offset_in(kind));
        }
        if let Err(SendError::Full(_)) = online.addr.try_send(ToSession::Deliver { kind, event: event.clone() }) {
            online.lost_one = true;
        }
    }

    /// Its stream reaches to here, as the store says.
    fn learn(&mut self, head: Offset) {
        if let Some(online) = &mut self.session
            && online.told < head
            && online.addr.try_send(ToSession::Learn { head }).is_ok()
        {
            online.told = head;
        }
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.ask_for_broadcast_end(ctx);
        if let Some(period) = self.wiring.config.poll {
            ctx.run_interval(period, |registry, ctx| registry.poll(ctx));
        }
        ctx.run_interval(MENDING, |registry, _| {
            for entry in registry.entries.values_mut() {
                if let Some(online) = &mut entry.session
                    && online.lost_one
                {
                    online.lost_one = online.addr.try_send(ToSession::CatchUp).is_err();
                }
            }
        });
    }
}

impl Handler<Reserve> for Registry {
    type Result = MessageResult<Reserve>;

    fn handle(&mut self, Reserve { stream }: Reserve, ctx: &mut Self::Context) -> Self::Result {
        if self.closed {
            return MessageResult(Err(NoPlace::Closed));
        }
        let entry = self.entries.entry(stream.clone()).or_default();
        let limit = self.wiring.config.max_connections;
        if entry.places >= limit {
            return MessageResult(Err(NoPlace::Full { limit }));
        }
        entry.places += 1;
        self.wiring.places.fetch_add(1, Ordering::SeqCst);
        MessageResult(Ok(Place { registry: ctx.address(), stream, socket: None }))
    }
}

impl Handler<Vacate> for Registry {
    type Result = ();

    fn handle(&mut self, Vacate { stream, socket }: Vacate, _: &mut Self::Context) {
        let Some(entry) = self.entries.get_mut(&stream) else { return };
        entry.places = entry.places.saturating_sub(1);
        self.wiring.places.fetch_sub(1, Ordering::SeqCst);
        if entry.places == 0 {
            // Its last address goes with the entry, and so the session ends.
            self.entries.remove(&stream);
        } else if let (Some(online), Some(socket)) = (&entry.session, socket) {
            // One message a socket, and sockets are bounded.
            online.addr.do_send(ToSession::Left { socket });
        }
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
            let Some(offset) = event.event().offsets.broadcast else { continue };
            let Some(follower) = &mut self.broadcast else {
                self.announced = self.announced.max(offset);
                continue;
            };
            let mut ready = Vec::new();
            let need = follower.offer(event, &mut ready);
            self.broadcast(&ready);
            self.fulfil(need, ctx);
        }
    }
}

impl Handler<CatchUp> for Registry {
    type Result = ();

    fn handle(&mut self, _: CatchUp, ctx: &mut Self::Context) {
        for entry in self.entries.values_mut() {
            if let Some(online) = &mut entry.session {
                online.lost_one = true;
            }
        }
        self.ask_for_broadcast_end(ctx);
    }
}

impl Handler<Tell> for Registry {
    type Result = ();

    fn handle(&mut self, Tell { stream, frame }: Tell, _: &mut Self::Context) {
        if let Some(online) = self.entries.get(&stream).and_then(|entry| entry.session.as_ref()) {
            let _ = online.addr.try_send(ToSession::Tell { frame });
        }
    }
}

impl Handler<TakeNoMore> for Registry {
    type Result = ();

    fn handle(&mut self, _: TakeNoMore, _: &mut Self::Context) {
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
            places: self.entries.values().map(|entry| entry.places).sum(),
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
