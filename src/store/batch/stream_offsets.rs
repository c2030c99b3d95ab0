//! Offsets for the events of a transaction.

use std::{collections::HashMap, sync::Arc};

use oriva_hub_actors::{
    model::{Event, Offset, Offsets, StreamKey, Timestamp, TraceParent, UserId},
    protocol::PublishedEvent,
};

use crate::store::event::NewEvent;

/// Hands out the offsets by which streams were raised.
#[derive(Default)]
pub(in crate::store) struct StreamOffsets {
    next: HashMap<(String, String), Offset>,
}

impl StreamOffsets {
    /// A stream was raised by `count` to `last`.
    pub(in crate::store) fn raised(&mut self, kind: String, key: String, last: Offset, count: u64) {
        self.next.insert((kind, key), last - count + 1);
    }

    fn take(&mut self, stream: &StreamKey) -> Offset {
        let next = self.next.entry((stream.kind().as_str().to_owned(), stream.name().to_owned())).or_insert(1);
        let offset = *next;
        *next += 1;
        offset
    }

    pub(super) fn publish(
        &mut self,
        event: NewEvent,
        created_at: Timestamp,
        trace: Option<TraceParent>,
    ) -> Arc<PublishedEvent> {
        let app = self.take(&StreamKey::App(event.app_id.clone()));
        let offset = self.take(&recipient(event.user_id.as_ref()));
        let (user, broadcast) = if event.user_id.is_some() { (Some(offset), None) } else { (None, Some(offset)) };
        PublishedEvent::new(Event {
            id: event.id,
            app_id: event.app_id,
            user_id: event.user_id,
            category: event.category,
            event_type: event.event_type,
            entity_type: event.entity_type,
            entity_id: event.entity_id,
            data: event.data,
            timestamp: event.timestamp,
            created_at,
            from_platform: event.from_platform,
            offsets: Offsets { app, user, broadcast },
            trace,
        })
    }
}

/// The stream of a user, or the broadcast stream.
pub(super) fn recipient(user: Option<&UserId>) -> StreamKey {
    user.cloned().map_or(StreamKey::Broadcast, StreamKey::User)
}
