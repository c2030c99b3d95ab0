//! What the store says of the streams that are followed here: how far they reach, and the broadcasts themselves, which
//! one partition orders and heals for all its sessions at once.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use actix::{AsyncContext, Context, WrapFuture, dev::ContextFutureSpawner, fut::ActorFutureExt};
use tokio::time::Instant;

use super::Registry;
use crate::{
    follower::{Follower, HeadQuery, Need, PATIENCE},
    measures,
    model::{Offset, Published, StreamKey, StreamKind},
    ports::{Page, Unavailable},
    session::{PAGE, RETRY},
};

/// Streams asked for at once.
const ASKED: usize = 1000;
/// Broadcasts that sessions are told of before they get their turn.
const TOLD_AT_ONCE: usize = 64;
/// Broadcasts that may wait for that.
const WAITING: usize = 256;
/// How often a registry looks whether it has to look: so late comes an event at most that nobody told of.
const LOOK: Duration = Duration::from_millis(900);
/// How often it looks all the same. What is lost without anybody's notice comes so late.
const SAFETY_LOOK: Duration = Duration::from_secs(30);
/// How long it goes on looking after a doubt: a commit that nobody knows of may still be on its way.
const DOUBT: Duration = Duration::from_secs(5);

/// What is known of the streams' ends, and when to ask.
pub(super) struct Ends {
    /// `None` until the stream's end is known; who joins before waits.
    pub(super) broadcast: Option<Follower>,
    /// The highest broadcast heard of before that. The end that is asked for may have been read just before it.
    announced: Offset,
    query: HeadQuery,
    /// There was no answer, or nobody asked yet.
    unanswered: bool,
    asked: Instant,
    /// Broadcasts whose turn it is, and which sessions were not told of yet.
    ready: VecDeque<Arc<Published>>,
    is_telling: bool,
    /// What the follower wants, once they were told.
    deferred: Need,
    in_doubt_until: Option<Instant>,
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            broadcast: None,
            announced: 0,
            query: HeadQuery::default(),
            unanswered: false,
            asked: Instant::now(),
            ready: VecDeque::new(),
            is_telling: false,
            deferred: Need::Nothing,
            in_doubt_until: None,
        }
    }
}

impl Registry {
    pub(super) fn start_looking(&mut self, ctx: &mut Context<Self>) {
        self.load_broadcast_end(ctx);
        ctx.run_interval(LOOK, |registry, ctx| {
            let ends = &registry.ends;
            let now = Instant::now();
            let must = ends.unanswered
                || ends.in_doubt_until.is_some_and(|until| now < until)
                || !registry.wiring.bus.hears_all()
                || now.duration_since(ends.asked) >= SAFETY_LOOK;
            if must {
                registry.look(ctx);
            }
        });
    }

    /// Looks now, and for a while.
    pub(super) fn doubt(&mut self, ctx: &mut Context<Self>) {
        self.ends.in_doubt_until = Some(Instant::now() + DOUBT);
        self.look(ctx);
    }

    /// Has every session hear how far its stream reaches: many streams a question, and one question at a time.
    pub(super) fn look(&mut self, ctx: &mut Context<Self>) {
        if self.ends.query.ask() {
            self.load_ends(ctx);
        }
    }

    fn load_ends(&mut self, ctx: &mut Context<Self>) {
        self.ends.asked = Instant::now();
        let online = self.entries.iter().filter(|(_, entry)| entry.session.is_some());
        let streams: Vec<StreamKey> =
            std::iter::once(StreamKey::Broadcast).chain(online.map(|(stream, _)| stream.clone())).collect();
        let history = self.wiring.history.clone();
        async move {
            let mut ends = Vec::with_capacity(streams.len());
            for page in streams.chunks(ASKED) {
                ends.extend(history.heads(page).await?);
            }
            Ok(streams.into_iter().zip(ends).collect())
        }
        .into_actor(self)
        .map(|ends: Result<Vec<_>, Unavailable>, registry, ctx| registry.on_ends(ends, ctx))
        .spawn(ctx);
    }

    fn on_ends(&mut self, ends: Result<Vec<(StreamKey, Offset)>, Unavailable>, ctx: &mut Context<Self>) {
        self.ends.unanswered = ends.is_err();
        let again = self.ends.query.answered();
        for (stream, end) in ends.unwrap_or_default() {
            if let Some(entry) = self.entries.get_mut(&stream) {
                entry.learn(end);
            } else if let (StreamKey::Broadcast, Some(follower)) = (&stream, &mut self.ends.broadcast) {
                let need = follower.learn(end);
                self.fulfil(need, ctx);
            }
        }
        if again {
            self.load_ends(ctx);
        }
    }

    fn load_broadcast_end(&self, ctx: &mut Context<Self>) {
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
        .map(|head, registry, ctx| {
            let mut follower = Follower::at(StreamKind::Broadcast, head);
            let need = follower.learn(registry.ends.announced);
            registry.ends.broadcast = Some(follower);
            registry.fulfil(need, ctx);
            for join in std::mem::take(&mut registry.waiting) {
                registry.join(join, ctx);
            }
        })
        .spawn(ctx);
    }

    /// Takes a broadcast from a hint.
    pub(super) fn offer_broadcast(&mut self, event: Arc<Published>, ctx: &mut Context<Self>) {
        let Some(follower) = &mut self.ends.broadcast else {
            self.ends.announced = self.ends.announced.max(event.offset_in(StreamKind::Broadcast));
            return;
        };
        let mut ready = Vec::new();
        let need = if self.ends.ready.len() < WAITING {
            follower.offer(event, &mut ready)
        } else {
            // More comes than sessions take: the store keeps it, and pages come as fast as they are taken.
            follower.learn(event.offset_in(StreamKind::Broadcast))
        };
        self.broadcast(ready, ctx);
        self.fulfil(need, ctx);
    }

    fn fulfil(&mut self, need: Need, ctx: &mut Context<Self>) {
        if matches!(need, Need::Page { .. }) && self.ends.ready.len() >= WAITING {
            // When sessions have taken what there is.
            self.ends.deferred = need;
            return;
        }
        let after = match need {
            Need::Nothing => return,
            Need::Patience => {
                let patience = tokio::time::sleep(PATIENCE).into_actor(self).map(|(), registry, ctx| {
                    let need = registry.ends.broadcast.as_mut().map_or(Need::Nothing, Follower::due);
                    registry.fulfil(need, ctx);
                });
                return patience.spawn(ctx);
            }
            Need::Page { after } => after,
        };
        metrics::counter!(measures::GAP_PAGES, "stream" => StreamKind::Broadcast.as_str()).increment(1);
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
        let Some(follower) = &mut self.ends.broadcast else { return };
        let mut ready = Vec::new();
        let need = match page {
            Ok(page) => follower.page(page, &mut ready),
            Err(Unavailable) => follower.failed(),
        };
        self.broadcast(ready, ctx);
        self.fulfil(need, ctx);
    }

    /// Hands broadcasts to all sessions, as many at a time as came while they took the last ones: a session wakes once
    /// for all of them. They share this thread, and have to get their turn before there is more.
    fn broadcast(&mut self, ready: Vec<Arc<Published>>, ctx: &mut Context<Self>) {
        self.ends.ready.extend(ready);
        if !self.ends.ready.is_empty() && !std::mem::replace(&mut self.ends.is_telling, true) {
            // After the messages that wait for this registry now, and may bring more.
            let turn = std::future::ready(()).into_actor(self);
            turn.map(|(), registry, ctx| registry.tell_some(ctx)).spawn(ctx);
        }
    }

    fn tell_some(&mut self, ctx: &mut Context<Self>) {
        let count = self.ends.ready.len().min(TOLD_AT_ONCE);
        let some: Arc<[_]> = self.ends.ready.drain(..count).collect();
        for (stream, entry) in &mut self.entries {
            if matches!(stream, StreamKey::User(_)) {
                entry.deliver_broadcasts(&some);
            }
        }
        self.ends.is_telling = !self.ends.ready.is_empty();
        if self.ends.is_telling {
            let turn = tokio::task::yield_now().into_actor(self);
            turn.map(|(), registry, ctx| registry.tell_some(ctx)).spawn(ctx);
        } else {
            let need = std::mem::replace(&mut self.ends.deferred, Need::Nothing);
            self.fulfil(need, ctx);
        }
    }
}
