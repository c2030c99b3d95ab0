//! Offsets for the events of a transaction.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use oriva_hub_actors::{
    model::{AppId, Event, Offset, Offsets, StreamKind, Timestamp, TraceParent, UserId},
    protocol::PublishedEvent,
};

use crate::store::event::NewEvent;

/// Greatest distance of an event's `created_at` from its `timestamp`. Requests are given up long before.
pub(in crate::store) const LONGEST_WAIT_MS: i64 = 120_000;

/// The number of new events in each stream, by the stream's kind and name.
pub(in crate::store) type StreamCounts<'a> = BTreeMap<(&'a str, &'a str), u64>;

/// Hands out the offsets by which streams were raised.
#[derive(Default)]
pub(in crate::store) struct StreamOffsets {
    apps: HashMap<String, Offset>,
    users: HashMap<String, Offset>,
    broadcast: Offset,
}

impl StreamOffsets {
    /// A stream was raised by `count` to `last`.
    pub(in crate::store) fn raised(&mut self, kind: StreamKind, name: String, last: Offset, count: u64) {
        let before = last - count;
        match kind {
            StreamKind::App => drop(self.apps.insert(name, before)),
            StreamKind::User => drop(self.users.insert(name, before)),
            StreamKind::Broadcast => self.broadcast = before,
        }
    }

    fn app(&mut self, app: &AppId) -> Offset {
        next_offset(&mut self.apps, app.as_str())
    }

    fn user(&mut self, user: &UserId) -> Offset {
        next_offset(&mut self.users, user.as_str())
    }

    fn broadcast(&mut self) -> Offset {
        self.broadcast += 1;
        self.broadcast
    }

    pub(super) fn publish(
        &mut self,
        event: NewEvent,
        created_at: Timestamp,
        trace: Option<TraceParent>,
    ) -> Arc<PublishedEvent> {
        let app = self.app(&event.app_id);
        let (user, broadcast) = match &event.user_id {
            Some(user) => (Some(self.user(user)), None),
            None => (None, Some(self.broadcast())),
        };
        let latest = Timestamp::from_unix_ms(event.timestamp.unix_ms() + LONGEST_WAIT_MS);
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
            // Lists rely on the distance of the two, whatever a clock says that was set in between.
            created_at: created_at.clamp(event.timestamp, latest),
            from_platform: event.from_platform,
            offsets: Offsets { app, user, broadcast },
            trace,
        })
    }
}

/// The next offset of a stream. Every stream was raised before offsets are taken, so it is there.
fn next_offset(streams: &mut HashMap<String, Offset>, name: &str) -> Offset {
    let Some(last) = streams.get_mut(name) else { return 0 };
    *last += 1;
    *last
}
