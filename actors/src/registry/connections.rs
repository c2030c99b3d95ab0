//! Connection permits: acquired from the limiter one at a time for each user or app.

use std::{collections::VecDeque, sync::atomic::Ordering};

use actix::{ActorFutureExt as _, AsyncContext as _, Context, dev::ContextFutureSpawner as _};

use super::{Registry, entry::Entry};
use crate::{
    connection_permit::{AcquireError, ConnectionPermit},
    model::StreamKey,
};

impl Registry {
    /// Asks the limiter for the next permit of a user or app. One at a time: the limiter is told how many connections
    /// this node would then hold, and two requests at once would each name a number too low.
    pub(super) fn acquire_next(&mut self, stream: &StreamKey, ctx: &mut Context<Self>) {
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
                // An idle user owns no queue.
                entry.acquiring = VecDeque::new();
            }
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
                    }
                    let permit = acquired.map_err(|_| AcquireError::LimitReached { limit }).map(|()| {
                        entry.counts.add(&scope);
                        registry.context.connections.fetch_add(1, Ordering::SeqCst);
                        if entry.counts != requested {
                            // Somebody left meanwhile.
                            registry.context.ports.limiter.set_count(&stream, &entry.counts);
                        }
                        ConnectionPermit::new(ctx.address().recipient(), stream.clone(), scope)
                    });
                    // Where nobody waits any more, dropping the permit gives it back.
                    let _ = answer.send(permit);
                    registry.acquire_next(&stream, ctx);
                    registry.remove_if_vacant(&stream);
                })
                .spawn(ctx);
        }
        self.remove_if_vacant(stream);
    }

    pub(super) fn remove_if_vacant(&mut self, stream: &StreamKey) {
        if self.entries.get(stream).is_some_and(Entry::is_vacant) {
            // The entry has the session's only address, so the session ends with it.
            self.entries.remove(stream);
            self.context.ports.bus.unfollow(stream);
        }
    }
}
