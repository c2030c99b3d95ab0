//! Connection permits: acquired from the limiter one at a time for each user or app. Nobody is refused before the sockets
//! that hold the permits were probed: a client whose path vanished comes back before its old socket is given up.

use std::{collections::VecDeque, sync::atomic::Ordering, time::Duration};

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _, dev::ContextFutureSpawner as _};
use tokio::time::Instant;

use super::{
    Registry,
    entry::{Acquiring, Entry},
};
use crate::{
    connection_permit::{AcquireError, ConnectionPermit},
    model::StreamKey,
    socket_loop::PROBE,
};

/// How long after a probe began the limiter is asked again. By then silent sockets are gone on every node, and a node
/// that died before it no longer counts.
const PROBED: Duration = PROBE.saturating_add(Duration::from_millis(750));
/// How long the outcome of a probe is good: who comes within this time of its beginning is refused without another.
const PROBE_VALID: Duration = PROBED.saturating_add(Duration::from_secs(1));

impl Registry {
    /// Asks the limiter for the next permit of a user or app. One at a time: the limiter is told how many connections
    /// this node would then hold, and two requests at once would each name a number too low.
    pub(super) fn acquire_next(&mut self, stream: &StreamKey, ctx: &mut Context<Self>) {
        let limit = self.context.config.max_connections;
        while let Some(entry) = self.entries.get_mut(stream)
            && entry.requested.is_none()
            && !entry.is_probing
            && let Some(next) = entry.acquiring.pop_front()
        {
            if entry.acquiring.is_empty() {
                // An idle user owns no queue.
                entry.acquiring = VecDeque::new();
            }
            if entry.counts.total() >= limit {
                self.probe_or_refuse(stream, next, ctx);
            } else {
                self.ask_limiter(stream, next, ctx);
            }
        }
        self.remove_if_vacant(stream);
    }

    fn ask_limiter(&mut self, stream: &StreamKey, (scope, answer): Acquiring, ctx: &mut Context<Self>) {
        let Some(entry) = self.entries.get_mut(stream) else { return };
        let limit = self.context.config.max_connections;
        let mut requested = entry.counts.clone();
        requested.add(&scope);
        entry.requested = Some(requested.clone());
        let stream = stream.clone();
        let acquired = self.context.ports.limiter.acquire(&stream, &requested, limit);
        actix::fut::wrap_future::<_, Self>(acquired)
            .map(move |acquired, registry, ctx| {
                let Some(entry) = registry.entries.get_mut(&stream) else { return };
                entry.requested = None;
                if acquired.is_err() {
                    // A snapshot taken meanwhile counted the request as granted.
                    registry.context.ports.limiter.set_count(&stream, &entry.counts);
                    registry.probe_or_refuse(&stream, (scope, answer), ctx);
                } else {
                    entry.counts.add(&scope);
                    registry.context.connections.fetch_add(1, Ordering::SeqCst);
                    if entry.counts != requested {
                        // Somebody left meanwhile.
                        registry.context.ports.limiter.set_count(&stream, &entry.counts);
                    }
                    let permit = ConnectionPermit::new(ctx.address().recipient(), stream.clone(), scope);
                    // Where nobody waits any more, dropping the permit gives it back.
                    let _ = answer.send(Ok(permit));
                }
                registry.acquire_next(&stream, ctx);
            })
            .spawn(ctx);
    }

    /// All connections are taken. Has silent sockets given up on all nodes, and asks the limiter again; refuses if that
    /// has just been done.
    fn probe_or_refuse(&mut self, stream: &StreamKey, next: Acquiring, ctx: &mut Context<Self>) {
        let Some(entry) = self.entries.get_mut(stream) else { return };
        if entry.probed_at.is_some_and(|at| at.elapsed() < PROBE_VALID) {
            let _ = next.1.send(Err(AcquireError::LimitReached { limit: self.context.config.max_connections }));
            return;
        }
        entry.probed_at = Some(Instant::now());
        entry.is_probing = true;
        entry.acquiring.push_front(next);
        entry.probe();
        self.context.ports.bus.request_probe(stream);
        let stream = stream.clone();
        tokio::time::sleep(PROBED)
            .into_actor(self)
            .map(move |(), registry, ctx| {
                if let Some(entry) = registry.entries.get_mut(&stream) {
                    entry.is_probing = false;
                }
                registry.acquire_next(&stream, ctx);
            })
            .spawn(ctx);
    }

    pub(super) fn remove_if_vacant(&mut self, stream: &StreamKey) {
        if self.entries.get(stream).is_some_and(Entry::is_vacant) {
            // The entry has the session's only address, so the session ends with it.
            self.entries.remove(stream);
            self.context.ports.bus.unfollow(stream);
        }
    }
}
