//! What the store says of the streams that are followed here: how far they reach, and the broadcasts themselves, which
//! one partition orders and heals for all its sessions at once.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use actix::{AsyncContext, Context, WrapFuture, dev::ContextFutureSpawner, fut::ActorFutureExt};
use tokio::time::Instant;

use super::Registry;
use crate::{
    stream_cursor::{StreamCursor, HeadQuery, Need, REORDER_WINDOW},
    metric_names,
    model::{Offset, PublishedEvent, StreamKey, StreamKind},
    ports::{Page, Unavailable},
    session::{PAGE, RETRY},
};

/// Streams asked for at once.
const STREAMS_PER_QUERY: usize = 1000;
/// Broadcasts that sessions are told of before they get their turn.
const BROADCAST_BATCH: usize = 64;
/// Broadcasts that may wait for that.
const BROADCAST_QUEUE: usize = 256;
/// How often a registry looks whether it has to look: so late comes an event at most that nobody told of.
const RECONCILE_INTERVAL: Duration = Duration::from_millis(900);
/// How often it looks all the same. What is lost without anybody's notice comes so late.
const PERIODIC_RESYNC: Duration = Duration::from_secs(30);
/// How long it goes on looking after a doubt: a commit that nobody knows of may still be on its way.
const RESYNC_WINDOW: Duration = Duration::from_secs(5);

/// What is known of the streams' ends, and when to ask.
pub(super) struct Heads {
    /// `None` until the stream's end is known; who joins before waits.
    pub(super) broadcast: Option<StreamCursor>,
    /// The highest broadcast heard of before that. The end that is asked for may have been read just before it.
    highest_heard: Offset,
    query: HeadQuery,
    /// There was no answer, or nobody asked yet.
    unanswered: bool,
    asked: Instant,
    /// Broadcasts whose turn it is, and which sessions were not told of yet.
    ready: VecDeque<Arc<PublishedEvent>>,
    is_sending: bool,
    /// What the follower wants, once they were told.
    deferred: Need,
    resync_until: Option<Instant>,
}

impl Default for Heads {
    fn default() -> Self {
        Self {
            broadcast: None,
            highest_heard: 0,
            query: HeadQuery::default(),
            unanswered: false,
            asked: Instant::now(),
            ready: VecDeque::new(),
            is_sending: false,
            deferred: Need::Nothing,
            resync_until: None,
        }
    }
}

impl Registry {
    pub(super) fn start_reconciling(&mut self, ctx: &mut Context<Self>) {
        self.load_broadcast_head(ctx);
        ctx.run_interval(RECONCILE_INTERVAL, |registry, ctx| {
            let heads = &registry.heads;
            let now = Instant::now();
            let must = heads.unanswered
                || heads.resync_until.is_some_and(|until| now < until)
                || !registry.context.bus.is_complete()
                || now.duration_since(heads.asked) >= PERIODIC_RESYNC;
            if must {
                registry.reconcile(ctx);
            }
        });
    }

    /// Looks now, and for a while.
    pub(super) fn resync(&mut self, ctx: &mut Context<Self>) {
        self.heads.resync_until = Some(Instant::now() + RESYNC_WINDOW);
        self.reconcile(ctx);
    }

    /// Has every session hear how far its stream reaches: many streams a question, and one question at a time.
    pub(super) fn reconcile(&mut self, ctx: &mut Context<Self>) {
        if self.heads.query.ask() {
            self.load_heads(ctx);
        }
    }

    fn load_heads(&mut self, ctx: &mut Context<Self>) {
        self.heads.asked = Instant::now();
        let online = self.entries.iter().filter(|(_, entry)| entry.session.is_some());
        let streams: Vec<StreamKey> =
            std::iter::once(StreamKey::Broadcast).chain(online.map(|(stream, _)| stream.clone())).collect();
        let history = self.context.history.clone();
        async move {
            let mut heads = Vec::with_capacity(streams.len());
            for page in streams.chunks(STREAMS_PER_QUERY) {
                heads.extend(history.heads(page).await?);
            }
            Ok(streams.into_iter().zip(heads).collect())
        }
        .into_actor(self)
        .map(|heads: Result<Vec<_>, Unavailable>, registry, ctx| registry.on_heads(heads, ctx))
        .spawn(ctx);
    }

    fn on_heads(&mut self, heads: Result<Vec<(StreamKey, Offset)>, Unavailable>, ctx: &mut Context<Self>) {
        self.heads.unanswered = heads.is_err();
        let again = self.heads.query.answered();
        for (stream, end) in heads.unwrap_or_default() {
            if let Some(entry) = self.entries.get_mut(&stream) {
                entry.observe_head(end);
            } else if let (StreamKey::Broadcast, Some(cursor)) = (&stream, &mut self.heads.broadcast) {
                let need = cursor.observe_head(end);
                self.fulfil(need, ctx);
            }
        }
        if again {
            self.load_heads(ctx);
        }
    }

    fn load_broadcast_head(&self, ctx: &mut Context<Self>) {
        let history = self.context.history.clone();
        async move {
            loop {
                if let Ok(head) = history.head(&StreamKey::Broadcast).await {
                    return head;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
        .into_actor(self)
        .map(|head, registry, ctx| {
            let mut cursor = StreamCursor::at(StreamKind::Broadcast, head);
            let need = cursor.observe_head(registry.heads.highest_heard);
            registry.heads.broadcast = Some(cursor);
            registry.fulfil(need, ctx);
            for join in std::mem::take(&mut registry.waiting) {
                registry.join(join, ctx);
            }
        })
        .spawn(ctx);
    }

    /// Takes a broadcast from a hint.
    pub(super) fn accept_broadcast(&mut self, event: Arc<PublishedEvent>, ctx: &mut Context<Self>) {
        let Some(cursor) = &mut self.heads.broadcast else {
            self.heads.highest_heard = self.heads.highest_heard.max(event.offset_in(StreamKind::Broadcast));
            return;
        };
        let mut ready = Vec::new();
        let need = if self.heads.ready.len() < BROADCAST_QUEUE {
            cursor.accept(event, &mut ready)
        } else {
            // More comes than sessions take: the store keeps it, and pages come as fast as they are taken.
            cursor.observe_head(event.offset_in(StreamKind::Broadcast))
        };
        self.broadcast(ready, ctx);
        self.fulfil(need, ctx);
    }

    fn fulfil(&mut self, need: Need, ctx: &mut Context<Self>) {
        if matches!(need, Need::Page { .. }) && self.heads.ready.len() >= BROADCAST_QUEUE {
            // When sessions have taken what there is.
            self.heads.deferred = need;
            return;
        }
        let after = match need {
            Need::Nothing => return,
            Need::WaitForReorder => {
                let window = tokio::time::sleep(REORDER_WINDOW).into_actor(self).map(|(), registry, ctx| {
                    let need = registry.heads.broadcast.as_mut().map_or(Need::Nothing, StreamCursor::reorder_timeout);
                    registry.fulfil(need, ctx);
                });
                return window.spawn(ctx);
            }
            Need::Page { after } => after,
        };
        metrics::counter!(metric_names::GAP_PAGES, "stream" => StreamKind::Broadcast.as_str()).increment(1);
        let history = self.context.history.clone();
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
        let Some(cursor) = &mut self.heads.broadcast else { return };
        let mut ready = Vec::new();
        let need = match page {
            Ok(page) => cursor.page(page, &mut ready),
            Err(Unavailable) => cursor.page_failed(),
        };
        self.broadcast(ready, ctx);
        self.fulfil(need, ctx);
    }

    /// Hands broadcasts to all sessions, as many at a time as came while they took the last ones: a session wakes once
    /// for all of them. They share this thread, and have to get their turn before there is more.
    fn broadcast(&mut self, ready: Vec<Arc<PublishedEvent>>, ctx: &mut Context<Self>) {
        self.heads.ready.extend(ready);
        if !self.heads.ready.is_empty() && !std::mem::replace(&mut self.heads.is_sending, true) {
            // After the messages that wait for this registry now, and may bring more.
            let turn = std::future::ready(()).into_actor(self);
            turn.map(|(), registry, ctx| registry.send_batch(ctx)).spawn(ctx);
        }
    }

    fn send_batch(&mut self, ctx: &mut Context<Self>) {
        let count = self.heads.ready.len().min(BROADCAST_BATCH);
        let some: Arc<[_]> = self.heads.ready.drain(..count).collect();
        for (stream, entry) in &mut self.entries {
            if matches!(stream, StreamKey::User(_)) {
                entry.deliver_broadcasts(&some);
            }
        }
        self.heads.is_sending = !self.heads.ready.is_empty();
        if self.heads.is_sending {
            let turn = tokio::task::yield_now().into_actor(self);
            turn.map(|(), registry, ctx| registry.send_batch(ctx)).spawn(ctx);
        } else {
            let need = std::mem::replace(&mut self.heads.deferred, Need::Nothing);
            self.fulfil(need, ctx);
        }
    }
}
