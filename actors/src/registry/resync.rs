//! Comparison of sessions with the store's heads, when messages may have been lost.

use actix::Context;
use tokio::time::Instant;

use super::{Registry, STREAMS_PER_QUERY};
use crate::{model::StreamKey, ports::Unavailable};

impl Registry {
    /// Tells every session how far its stream reaches, and the shard how far the broadcasts reach.
    pub(super) fn resync(&mut self, ctx: &mut Context<Self>) {
        if self.resyncs.request(Instant::now()) {
            self.load_all_heads(ctx);
        }
    }

    fn load_all_heads(&self, ctx: &mut Context<Self>) {
        let running = self.entries.iter().filter(|(_, entry)| entry.session.is_some());
        let streams = std::iter::once(StreamKey::Broadcast).chain(running.map(|(stream, _)| stream.clone())).collect();
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
        if self.is_resyncing_overflowed {
            return;
        }
        let overflowed =
            self.entries.iter_mut().filter_map(|(stream, entry)| entry.take_needs_resync().then_some(stream));
        let streams: Vec<StreamKey> = overflowed.take(STREAMS_PER_QUERY).cloned().collect();
        if streams.is_empty() {
            return;
        }
        self.is_resyncing_overflowed = true;
        let asked = streams.clone();
        self.load_heads(streams, ctx, move |registry, heads, _| {
            registry.is_resyncing_overflowed = false;
            let broadcast_head = registry.broadcasts.position().unwrap_or(0);
            match heads {
                Ok(heads) => {
                    for (stream, head) in heads {
                        if let Some(entry) = registry.entries.get_mut(&stream) {
                            entry.send_heads(stream.kind(), head, broadcast_head);
                        }
                    }
                }
                Err(Unavailable) => {
                    for stream in &asked {
                        if let Some(entry) = registry.entries.get_mut(stream) {
                            entry.set_needs_resync();
                        }
                    }
                }
            }
        });
    }
}
