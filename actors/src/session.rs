//! The session of one online user or app: its sockets, its place in the stream, its replays. One actor; it never touches
//! SQL. `session/state.rs` decides what to do, this file does it.

#[cfg(feature = "testing")]
pub(crate) mod bench;
mod effect;
mod filter;
mod member;
pub(crate) mod messages;
mod replay;
mod state;

use std::{sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Recipient, WrapFuture, dev::ContextFutureSpawner,
};
use tokio::time::Instant;

use self::{
    effect::Effect,
    messages::{SessionEnded, SessionInput},
    state::State,
};
use crate::{
    context::ShardContext,
    metric_names,
    model::{StreamKey, StreamKind},
    protocol::Close,
    stream_cursor::REORDER_WINDOW,
    traces,
};

pub(crate) use self::filter::Positions;

/// Sample rate for the latency of broadcasts: 16 in 256 batches of a session are recorded. All would cost more than the
/// delivery.
const BROADCAST_LATENCY_SAMPLES: u8 = 16;

/// Pause before the store is asked again after it failed.
pub(crate) const RETRY: Duration = Duration::from_millis(500);
/// Messages that may wait in a session's mailbox. Past that the registry has the session resynchronise.
const MAILBOX: usize = 512;

/// The actor.
pub(crate) struct Session {
    state: State,
    context: Arc<ShardContext>,
    registry: Recipient<SessionEnded>,
    serial: u64,
}

impl Session {
    /// Starts a session whose streams reach to `heads`. It sends `registry` a message when it ends.
    pub(crate) fn start(
        context: Arc<ShardContext>,
        registry: Recipient<SessionEnded>,
        stream: StreamKey,
        serial: u64,
        heads: Positions,
    ) -> Addr<Self> {
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let state = State::new(stream, heads, &context.config);
            Self { state, context, registry, serial }
        })
    }

    fn step(&mut self, input: SessionInput, ctx: &mut Context<Self>) {
        let mut effects = Vec::new();
        self.state.on(input, &mut effects);
        for effect in effects {
            self.perform(effect, ctx);
        }
    }

    fn perform(&self, effect: Effect, ctx: &mut Context<Self>) {
        let history = self.context.ports.history.clone();
        let stream_of = |kind| match kind {
            StreamKind::Broadcast => StreamKey::Broadcast,
            StreamKind::User | StreamKind::App => self.state.stream().clone(),
        };
        match effect {
            Effect::Open { socket } => self.context.socket_loop.open(socket, ctx.address().recipient()),
            Effect::Push { socket, frame } => self.context.socket_loop.push(socket, frame),
            Effect::Receipt { event } => self.context.ports.receipts.pushed(&event),
            Effect::Probe { socket } => self.context.socket_loop.probe(socket),
            Effect::NotifyWhenDrained { socket } => self.context.socket_loop.notify_when_drained(socket),
            Effect::WaitForReorder { kind } => {
                tokio::time::sleep(REORDER_WINDOW)
                    .into_actor(self)
                    .map(move |(), session, ctx| session.step(SessionInput::ReorderTimeout { kind }, ctx))
                    .spawn(ctx);
            }
            Effect::LoadPage { kind, after } => {
                metrics::counter!(metric_names::GAP_PAGES, "stream" => kind.as_str()).increment(1);
                let stream = stream_of(kind);
                async move {
                    let page = history.page(&stream, after).await;
                    if page.is_err() {
                        tokio::time::sleep(RETRY).await;
                    }
                    page
                }
                .into_actor(self)
                .map(move |page, session, ctx| session.step(SessionInput::Page { kind, page }, ctx))
                .spawn(ctx);
            }
            Effect::LoadReplay { socket, replay_id, kind, after } => {
                let stream = stream_of(kind);
                async move {
                    loop {
                        if let Ok(page) = history.page(&stream, after).await {
                            return page;
                        }
                        tokio::time::sleep(RETRY).await;
                    }
                }
                .into_actor(self)
                .map(move |page, session, ctx| {
                    session.step(SessionInput::ReplayPage { socket, replay_id, kind, page }, ctx);
                })
                .spawn(ctx);
            }
            Effect::Refresh { socket, identity, token, id } => {
                let credentials = self.context.ports.credentials.clone();
                async move { credentials.refresh(&token, &identity).await }
                    .into_actor(self)
                    .map(move |outcome, session, ctx| {
                        if let Ok(expiry) = &outcome {
                            session.context.socket_loop.refreshed(socket, Instant::now() + expiry.remaining);
                        }
                        session.step(SessionInput::Refreshed { socket, id, outcome }, ctx);
                    })
                    .spawn(ctx);
            }
        }
    }
}

impl Actor for Session {
    type Context = Context<Self>;
}

impl Handler<SessionInput> for Session {
    type Result = ();

    fn handle(&mut self, input: SessionInput, ctx: &mut Self::Context) {
        let is_sampled = |kind| kind != StreamKind::Broadcast || rand::random::<u8>() < BROADCAST_LATENCY_SAMPLES;
        let (oldest, spans) = match &input {
            SessionInput::Deliver { kind, events } if is_sampled(*kind) => {
                let events = events.as_slice();
                (events.first().cloned(), traces::deliveries(events))
            }
            _ => (None, Vec::new()),
        };
        self.step(input, ctx);
        drop(spans);
        if let Some(oldest) = oldest {
            metrics::histogram!(metric_names::DELIVERY_LATENCY).record(oldest.age().as_secs_f64());
        }
    }
}

impl Drop for Session {
    /// The one place that cleans up after a session, whether it ended or panicked.
    fn drop(&mut self) {
        for socket in self.state.sockets() {
            self.context.socket_loop.close(socket, Close::Internal);
        }
        self.registry.do_send(SessionEnded { stream: self.state.stream().clone(), serial: self.serial });
    }
}
