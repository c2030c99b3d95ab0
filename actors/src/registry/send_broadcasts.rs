//! Executes what the broadcast feed decides: sends batches to sessions, and reads pages.

use actix::{ActorFutureExt as _, Context, WrapFuture as _, dev::ContextFutureSpawner as _};

use super::Registry;
use crate::{
    metric_names,
    model::{Offset, StreamKey, StreamKind},
    session::RETRY,
    stream_cursor::{Need, REORDER_WINDOW},
};

impl Registry {
    /// Sends what is ready and does what the feed needs.
    pub(super) fn advance_broadcasts(&mut self, need: Need, ctx: &mut Context<Self>) {
        if self.broadcasts.wants_turn() {
            // Behind the messages that are in the mailbox now and may bring more: so a session wakes once for many.
            std::future::ready(()).into_actor(self).map(|(), registry, ctx| registry.send_broadcasts(ctx)).spawn(ctx);
        }
        match self.broadcasts.admit(need) {
            Need::Nothing => {}
            Need::WaitForReorder => {
                tokio::time::sleep(REORDER_WINDOW)
                    .into_actor(self)
                    .map(|(), registry, ctx| {
                        let need = registry.broadcasts.reorder_timeout();
                        registry.advance_broadcasts(need, ctx);
                    })
                    .spawn(ctx);
            }
            Need::Page { after } => self.load_broadcasts(after, ctx),
        }
    }

    fn load_broadcasts(&self, after: Offset, ctx: &mut Context<Self>) {
        metrics::counter!(metric_names::GAP_PAGES, "stream" => StreamKind::Broadcast.as_str()).increment(1);
        let history = self.context.ports.history.clone();
        async move {
            let page = history.page(&StreamKey::Broadcast, after).await;
            if page.is_err() {
                tokio::time::sleep(RETRY).await;
            }
            page
        }
        .into_actor(self)
        .map(|page, registry, ctx| {
            let need = registry.broadcasts.page(page);
            registry.advance_broadcasts(need, ctx);
        })
        .spawn(ctx);
    }

    /// Sends one batch to all users' sessions. They share this thread, so they get their turn before the next batch.
    fn send_broadcasts(&mut self, ctx: &mut Context<Self>) {
        let batch = self.broadcasts.next_batch();
        for (stream, entry) in &mut self.entries {
            if stream.kind() == StreamKind::User {
                entry.deliver_broadcasts(&batch);
            }
        }
        match self.broadcasts.batch_sent() {
            Ok(()) => {
                let turn = tokio::task::yield_now().into_actor(self);
                turn.map(|(), registry, ctx| registry.send_broadcasts(ctx)).spawn(ctx);
            }
            Err(need) => self.advance_broadcasts(need, ctx),
        }
    }
}
