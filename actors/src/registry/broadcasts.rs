//! The broadcast stream of one shard: ordered and healed once for all its sessions, and handed to them in batches. Pure.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    model::{Offset, StreamKind},
    ports::{Page, Unavailable},
    protocol::PublishedEvent,
    stream_cursor::{Need, StreamCursor},
};

/// Broadcasts that sessions are sent before the sessions get their turn.
const BATCH: usize = 64;
/// Broadcasts that may wait to be sent: their number, …
const QUEUE: usize = 256;
/// … and their bytes. Further ones are left in the store, and read when the sessions have caught up.
const QUEUE_BYTES: usize = 4 << 20;

/// The broadcasts on their way to the sessions.
#[derive(Default)]
pub(super) struct BroadcastFeed {
    /// `None` until the head of the stream is known.
    cursor: Option<StreamCursor>,
    /// The highest offset heard of before that. The head may have been read earlier.
    highest_routed: Offset,
    queue: VecDeque<Arc<PublishedEvent>>,
    /// A turn is scheduled in which the queue is sent.
    is_sending: bool,
    /// The page that the cursor needs, put off until the queue is sent.
    deferred: Option<Need>,
}

impl BroadcastFeed {
    /// How far the sessions have been sent, or will be; `None` until the head is known.
    pub(super) fn position(&self) -> Option<Offset> {
        self.cursor.as_ref().map(StreamCursor::position)
    }

    /// Begins behind `head`.
    pub(super) fn start(&mut self, head: Offset) -> Need {
        let cursor = self.cursor.insert(StreamCursor::at(StreamKind::Broadcast, head));
        cursor.observe_head(self.highest_routed)
    }

    /// Takes a broadcast from a hint.
    pub(super) fn accept(&mut self, event: Arc<PublishedEvent>) -> Need {
        let offset = event.offset_in(StreamKind::Broadcast);
        let Some(cursor) = &mut self.cursor else {
            self.highest_routed = self.highest_routed.max(offset);
            return Need::Nothing;
        };
        if is_full(&self.queue) {
            return cursor.observe_head(offset);
        }
        let mut ready = Vec::new();
        let need = cursor.accept(event, &mut ready);
        self.queue.extend(ready);
        need
    }

    /// Takes the stream's head, as the store says.
    pub(super) fn observe_head(&mut self, head: Offset) -> Need {
        self.cursor.as_mut().map_or(Need::Nothing, |cursor| cursor.observe_head(head))
    }

    /// Takes a page that was asked for.
    pub(super) fn page(&mut self, page: Result<Page, Unavailable>) -> Need {
        let Some(cursor) = &mut self.cursor else { return Need::Nothing };
        match page {
            Ok(page) => {
                let mut ready = Vec::new();
                let need = cursor.page(page, &mut ready);
                self.queue.extend(ready);
                need
            }
            Err(Unavailable) => cursor.page_failed(),
        }
    }

    /// The wait for broadcasts that overtook each other is over.
    pub(super) fn reorder_timeout(&mut self) -> Need {
        self.cursor.as_mut().map_or(Need::Nothing, StreamCursor::reorder_timeout)
    }

    /// What of a need is to be done now. A page waits until the queue is sent: the store keeps it meanwhile.
    pub(super) fn admit(&mut self, need: Need) -> Need {
        if matches!(need, Need::Page { .. }) && is_full(&self.queue) {
            self.deferred = Some(need);
            return Need::Nothing;
        }
        need
    }

    /// Whether to schedule a turn for [`BroadcastFeed::next_batch`]: there is something to send and none is scheduled.
    pub(super) fn wants_turn(&mut self) -> bool {
        !self.queue.is_empty() && !std::mem::replace(&mut self.is_sending, true)
    }

    /// The next batch for all sessions.
    pub(super) fn next_batch(&mut self) -> Arc<[Arc<PublishedEvent>]> {
        let count = self.queue.len().min(BATCH);
        self.queue.drain(..count).collect()
    }

    /// A batch was sent. Returns whether there is more to send; if not, then the need that was put off.
    pub(super) fn batch_sent(&mut self) -> Result<(), Need> {
        self.is_sending = !self.queue.is_empty();
        if self.is_sending { Ok(()) } else { Err(self.deferred.take().unwrap_or(Need::Nothing)) }
    }
}

fn is_full(queue: &VecDeque<Arc<PublishedEvent>>) -> bool {
    queue.len() >= QUEUE || queue.iter().map(|event| event.bytes()).sum::<usize>() >= QUEUE_BYTES
}
