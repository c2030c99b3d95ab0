//! One online user's or app's live stream: its sockets, its offset, its replays. Orders and fills gaps; never touches
//! SQL. What to do is decided in `session/state.rs`; here it is done.

#[cfg(feature = "testing")]
pub(crate) mod bench;
mod member;
mod replay;
mod resume;
mod state;

use std::{sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, WrapFuture, dev::ContextFutureSpawner,
};
use bytes::Bytes;
use state::{Effect, Input, State};
use tokio::time::Instant;

use crate::{
    stream_cursor::REORDER_WINDOW,
    metric_names,
    model::{Offset, PublishedEvent, StreamKey, StreamKind},
    realtime::ShardContext,
    protocol::{ClientFrame, Close},
    socket_loop::SocketKey,
    registry::{Join, Registry, SessionEnded},
    traces,
};

/// Of 256 sessions that are told a broadcast: so many measure it.
const BROADCAST_LATENCY_SAMPLES: u8 = 16;

/// Events asked of the store at once.
pub(crate) const PAGE: usize = 128;
/// The pause before the store is asked again after it failed.
pub(crate) const RETRY: Duration = Duration::from_millis(500);
/// Messages that may wait for a session; past that the registry has it compare itself with the store.
const MAILBOX: usize = 512;

/// Events of one stream that a session is told of at once, in the order of their offsets.
pub(crate) enum Events {
    One(Arc<PublishedEvent>),
    /// Shared with the other sessions that are told of the same ones.
    Many(Arc<[Arc<PublishedEvent>]>),
}

impl Events {
    pub(crate) fn as_slice(&self) -> &[Arc<PublishedEvent>] {
        match self {
            Self::One(event) => std::slice::from_ref(event),
            Self::Many(events) => events,
        }
    }
}

/// What a session is told.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) enum ToSession {
    Join(Join),
    Left {
        socket: SocketKey,
    },
    Frame {
        socket: SocketKey,
        frame: ClientFrame,
    },
    Drained {
        socket: SocketKey,
    },
    Deliver {
        kind: StreamKind,
        events: Events,
    },
    CatchUp,
    ObserveHead {
        head: Offset,
    },
    SendFrame {
        frame: Bytes,
    },
    #[cfg(any(test, feature = "testing"))]
    Panic,
}

pub(crate) struct Session {
    state: State,
    context: Arc<ShardContext>,
    registry: Addr<Registry>,
    serial: u64,
}

impl Session {
    pub(crate) fn start(
        context: Arc<ShardContext>,
        registry: Addr<Registry>,
        stream: StreamKey,
        serial: u64,
        broadcast_position: Offset,
    ) -> Addr<Self> {
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let state = State::new(stream, broadcast_position, &context.config);
            Self { state, context, registry, serial }
        })
    }

    fn step(&mut self, input: Input, ctx: &mut Context<Self>) {
        let mut effects = Vec::new();
        self.state.on(input, &mut effects);
        for effect in effects {
            self.perform(effect, ctx);
        }
    }

    fn perform(&self, effect: Effect, ctx: &mut Context<Self>) {
        let history = self.context.history.clone();
        let stream_of = |kind| match kind {
            StreamKind::Broadcast => StreamKey::Broadcast,
            StreamKind::User | StreamKind::App => self.state.stream().clone(),
        };
        match effect {
            Effect::Open { socket } => self.context.socket_loop.join(socket, ctx.address()),
            Effect::Push { socket, frame } => self.context.socket_loop.push(socket, frame),
            Effect::Receipt { event } => self.context.receipts.pushed(&event),
            Effect::TellWhenDrained { socket } => self.context.socket_loop.tell_when_drained(socket),
            Effect::LoadHead { kind } => {
                let stream = stream_of(kind);
                async move {
                    loop {
                        if let Ok(head) = history.head(&stream).await {
                            return head;
                        }
                        tokio::time::sleep(RETRY).await;
                    }
                }
                .into_actor(self)
                .map(move |head, session, ctx| session.step(Input::Head { kind, head }, ctx))
                .spawn(ctx);
            }
            Effect::WaitForReorder { kind } => {
                tokio::time::sleep(REORDER_WINDOW)
                    .into_actor(self)
                    .map(move |(), session, ctx| session.step(Input::ReorderTimeout { kind }, ctx))
                    .spawn(ctx);
            }
            Effect::LoadPage { kind, after } => {
                metrics::counter!(metric_names::GAP_PAGES, "stream" => kind.as_str()).increment(1);
                let stream = stream_of(kind);
                async move {
                    let page = history.page(&stream, after, PAGE).await;
                    if page.is_err() {
                        tokio::time::sleep(RETRY).await;
                    }
                    page
                }
                .into_actor(self)
                .map(move |page, session, ctx| session.step(Input::Page { kind, page }, ctx))
                .spawn(ctx);
            }
            Effect::LoadReplay { socket, replay_id, kind, after } => {
                let stream = stream_of(kind);
                async move {
                    loop {
                        if let Ok(page) = history.page(&stream, after, PAGE).await {
                            return page;
                        }
                        tokio::time::sleep(RETRY).await;
                    }
                }
                .into_actor(self)
                .map(move |page, session, ctx| session.step(Input::ReplayPage { socket, replay_id, kind, page }, ctx))
                .spawn(ctx);
            }
            Effect::Refresh { socket, identity, token, id } => {
                let credentials = self.context.credentials.clone();
                async move { credentials.refresh(&token, &identity).await }
                    .into_actor(self)
                    .map(move |outcome, session, ctx| {
                        if let Ok(expiry) = &outcome {
                            session.context.socket_loop.refreshed(socket, Instant::now() + expiry.remaining);
                        }
                        session.step(Input::Refreshed { socket, id, outcome }, ctx);
                    })
                    .spawn(ctx);
            }
        }
    }
}

impl Actor for Session {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.step(Input::Started, ctx);
    }
}

impl Handler<ToSession> for Session {
    type Result = ();

    fn handle(&mut self, message: ToSession, ctx: &mut Self::Context) {
        // A broadcast goes to every session there is: one in so many says how long it took.
        let is_measured = |kind| kind != StreamKind::Broadcast || rand::random::<u8>() < BROADCAST_LATENCY_SAMPLES;
        let (oldest, spans) = match &message {
            ToSession::Deliver { kind, events } if is_measured(*kind) => {
                let events = events.as_slice();
                (events.first().cloned(), traces::deliveries(events))
            }
            _ => (None, Vec::new()),
        };
        let input = match message {
            ToSession::Join(join) => Input::Join(join),
            ToSession::Left { socket } => Input::Left { socket },
            ToSession::Frame { socket, frame } => Input::Frame { socket, frame },
            ToSession::Drained { socket } => Input::Drained { socket },
            ToSession::Deliver { kind, events } => Input::Deliver { kind, events },
            ToSession::CatchUp => Input::CatchUp,
            ToSession::ObserveHead { head } => Input::ObserveHead { head },
            ToSession::SendFrame { frame } => Input::SendFrame { frame },
            #[cfg(any(test, feature = "testing"))]
            ToSession::Panic => panic!("a session that was told to panic"),
        };
        self.step(input, ctx);
        drop(spans);
        if let Some(oldest) = oldest {
            metrics::histogram!(metric_names::DELIVERY_LATENCY).record(oldest.age().as_secs_f64());
        }
    }
}

impl Drop for Session {
    /// The one place where a session is taken leave of, after its end and after its panic alike.
    fn drop(&mut self) {
        for socket in self.state.sockets() {
            self.context.socket_loop.close(socket, Close::Internal);
        }
        self.registry.do_send(SessionEnded { stream: self.state.stream().clone(), serial: self.serial });
    }
}
