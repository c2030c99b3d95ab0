//! Comparison of sessions with the store's heads, when messages may have been lost.

use actix::Context;
use tokio::time::Instant;

use super::{Registry, STREAMS_PER_QUERY, entry::Entry};
use crate::model::StreamKey;

impl Registry {
    /// Tells every session how far its stream reaches, and the shard how far the broadcasts reach.
    pub(super) fn resync(&mut self, ctx: &mut Context<Self>) {
        if self.resyncs.request(Instant::now()) {
            self.load_all_heads(ctx);
        }
    }

    fn load_all_heads(&self, ctx: &mut Context<Self>) {
        let online = self.entries.iter().filter(|(_, entry)| entry.session.is_some());
        let streams = std::iter::once(StreamKey::Broadcast).chain(online.map(|(stream, _)| stream.clone())).collect();
        self.load_heads(streams, ctx, |registry, heads, ctx| {
            let run_again = registry.resyncs.finish(heads.is_ok(), Instant::now());
            for (stream, head) in heads.unwrap_or_default() {
                if stream == StreamKey::Broadcast {
                    let need = registry.broadcasts.observe_head(head);
                    registry.advance_broadcasts(need, ctx);
                } else if let Some(entry) = registry.entries.get_mut(&stream) {
                    entry.observe_head(stream.kind(), head);
                }
            }
            if run_again {
                registry.load_all_heads(ctx);
            }
        });
    }

    /// Resynchronises the sessions whose mailbox was full when a message came.
    pub(super) fn resync_overflowed(&mut self, ctx: &mut Context<Self>) {
        let needs_resync = |entry: &Entry| entry.session.as_ref().is_some_and(|online| online.needs_resync);
        let overflowed = self.entries.iter().filter(|(_, entry)| needs_resync(entry)).map(|(stream, _)| stream.clone());
        let streams: Vec<StreamKey> = overflowed.take(STREAMS_PER_QUERY).collect();
        if streams.is_empty() || std::mem::replace(&mut self.is_resyncing_overflowed, true) {
            return;
        }
        self.load_heads(streams, ctx, |registry, heads, _| {
            registry.is_resyncing_overflowed = false;
            let broadcast_head = registry.broadcasts.position().unwrap_or(0);
            for (stream, head) in heads.unwrap_or_default() {
                if let Some(entry) = registry.entries.get_mut(&stream) {
                    entry.resync(stream.kind(), head, broadcast_head);
                }
            }
        });
    }
}
