//! Offsets for the events of a transaction.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use oriva_hub_actors::{
    model::{AppId, Event, Invalid, Offset, Offsets, StreamKind, Timestamp, TraceParent, UserId},
    protocol::PublishedEvent,
};

use crate::store::event::NewEvent;

/// Greatest distance of an event's `created_at` from its `timestamp`. Requests are given up long before.
pub(in crate::store) const LONGEST_WAIT_MS: i64 = 120_000;

/// The number of new events in each stream, by the stream's kind and name.
pub(in crate::store) type StreamCounts<'a> = BTreeMap<(&'a str, &'a str), u64>;

const APP: &str = StreamKind::App.as_str();
const USER: &str = StreamKind::User.as_str();
const BROADCAST: &str = StreamKind::Broadcast.as_str();

/// The two streams that an event is in, by kind and name: its app's, and its user's or the broadcast stream.
pub(super) fn streams_of(event: &NewEvent) -> [(&str, &str); 2] {
    let recipient = event.user_id.as_ref().map_or((BROADCAST, ""), |user| (USER, user.as_str()));
    [(APP, event.app_id.as_str()), recipient]
}

/// When an event counts as stored. Lists rely on the distance to its `timestamp`, whatever a clock says that was set in
/// between.
pub(in crate::store) fn stored_at(event: &NewEvent, now: Timestamp) -> Timestamp {
    now.clamp(event.timestamp, Timestamp::from_unix_ms(event.timestamp.unix_ms() + LONGEST_WAIT_MS))
}

/// An event's place in a stream before its offset is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Place {
    /// The stream: its number in the order of [`StreamCounts`], from 1 on.
    pub stream: i64,
    /// How many events of the batch come after it in this stream.
    pub later: i64,
}

/// Gives the events of a batch their places, in the order in which [`StreamOffsets`] numbers them.
pub(in crate::store) struct Places<'a>(HashMap<(&'a str, &'a str), Place>);

impl<'a> Places<'a> {
    pub(in crate::store) fn new(counts: &StreamCounts<'a>) -> Self {
        let streams = counts.iter().zip(1..);
        Self(streams.map(|((key, count), stream)| (*key, Place { stream, later: count.cast_signed() })).collect())
    }

    /// The places of the next event in its app's stream, and in its user's or the broadcast stream.
    pub(in crate::store) fn next(&mut self, event: &'a NewEvent) -> Option<[Place; 2]> {
        let [app, recipient] = streams_of(event);
        Some([self.take(app)?, self.take(recipient)?])
    }

    fn take(&mut self, stream: (&'a str, &'a str)) -> Option<Place> {
        let place = self.0.get_mut(&stream)?;
        place.later -= 1;
        Some(*place)
    }
}

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

    /// Streams were raised to these ends, in the order of `counts`.
    ///
    /// # Errors
    /// Where there are not as many ends as streams.
    pub(in crate::store) fn raised_to(counts: &StreamCounts<'_>, ends: &[i64]) -> Result<Self, Invalid> {
        if ends.len() != counts.len() {
            return Err(Invalid(format!("{} of {} streams were raised", ends.len(), counts.len())));
        }
        let mut offsets = Self::default();
        for (((kind, name), count), end) in counts.iter().zip(ends) {
            let kind = StreamKind::from_name(kind).ok_or_else(|| Invalid(format!("{kind} is no kind of stream")))?;
            offsets.raised(kind, (*name).to_owned(), end.unsigned_abs(), *count);
        }
        Ok(offsets)
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
        let created_at = stored_at(&event, created_at);
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

/// The next offset of a stream. Every stream was raised before offsets are taken, so it is there.
fn next_offset(streams: &mut HashMap<String, Offset>, name: &str) -> Offset {
    let Some(last) = streams.get_mut(name) else { return 0 };
    *last += 1;
    *last
}
