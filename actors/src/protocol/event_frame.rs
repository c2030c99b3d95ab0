//! A committed event and its frames: encoded once, for all sockets on all nodes.

use std::{
    borrow::Cow,
    fmt::Write as _,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    deflate::deflated,
    server::{frame_text, text_frame},
};
use crate::model::{
    AppId, Category, Event, EventId, EventType, Invalid, JsonObject, Offset, Offsets, StreamKind, Timestamp,
    TraceParent, UserId,
};

/// A committed event. For each kind of stream its frame is encoded at most once, however many sockets get it
/// (ARCHITECTURE.md, invariant 4).
#[derive(Debug)]
pub struct PublishedEvent {
    event: Event,
    full_type: String,
    frames: [OnceLock<Bytes>; 3],
    deflated: [OnceLock<Bytes>; 3],
    /// When this node wrote the event, or received it over the bus, or read it from the store.
    known_since: Instant,
}

impl PublishedEvent {
    /// Encodes an event once for all sockets.
    #[must_use]
    pub fn new(event: Event) -> Arc<Self> {
        let full_type = event.full_type();
        Self::with_type(event, full_type)
    }

    /// The event under a type of the hub's own, which no category has.
    #[must_use]
    pub fn with_type(event: Event, full_type: String) -> Arc<Self> {
        Arc::new(Self {
            event,
            full_type,
            frames: Default::default(),
            deflated: Default::default(),
            known_since: Instant::now(),
        })
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// About how much memory it takes, in bytes, without its frames.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let Event { data, entity_type, entity_id, .. } = &self.event;
        size_of::<Self>() + data.as_str().len() + entity_type.len() + entity_id.len()
    }

    /// How long this node has known the event.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.known_since.elapsed()
    }

    /// Category and type with a dot between: `notification.created`.
    #[must_use]
    pub fn full_type(&self) -> &str {
        &self.full_type
    }

    /// Its offset in a stream of this kind; 0 if that stream does not contain it.
    #[must_use]
    pub fn offset_in(&self, stream: StreamKind) -> Offset {
        self.event.offset_in(stream).unwrap_or(0)
    }

    /// The whole WebSocket frame, with its header, for sockets that follow a stream of this kind.
    #[must_use]
    pub fn frame(&self, stream: StreamKind) -> Bytes {
        self.frames[stream as usize].get_or_init(|| text_frame(&self.encode(stream))).clone()
    }

    /// The same frame, compressed, for sockets that negotiated it.
    #[must_use]
    pub fn deflated_frame(&self, stream: StreamKind) -> Bytes {
        self.deflated[stream as usize].get_or_init(|| deflated(&self.frame(stream))).clone()
    }

    /// An event from another node's frame for `stream`. This node's sockets are sent the same bytes. The arguments hold
    /// what the frame does not.
    ///
    /// # Errors
    /// [`Invalid`] where it is not such a frame.
    pub fn from_frame(
        stream: StreamKind,
        frame: Bytes,
        offsets: Offsets,
        from_platform: bool,
        trace: Option<TraceParent>,
    ) -> Result<Arc<Self>, Invalid> {
        let wrong = || Invalid::new("must be the frame of an event");
        let json = frame_text(&frame).ok_or_else(wrong)?;
        let parsed: EventFrameJson<'_> = serde_json::from_str(json).map_err(|_| wrong())?;
        let category = Category::parse(parsed.event_category)?;
        let bare_type = parsed.event_type.strip_prefix(category.as_str()).and_then(|rest| rest.strip_prefix('.'));
        let bare_type = bare_type.ok_or_else(wrong)?;
        let event = Event {
            id: parsed.event_id,
            app_id: AppId::parse(&parsed.app_id)?,
            user_id: parsed.user_id.map(|user| UserId::parse(&user)).transpose()?,
            category,
            event_type: EventType::from_store(bare_type),
            entity_type: parsed.entity_type.into_owned(),
            entity_id: parsed.entity_id.into_owned(),
            data: JsonObject::from_raw(parsed.event_data),
            timestamp: parsed.timestamp,
            created_at: parsed.created_at,
            from_platform,
            offsets,
            trace,
        };
        if event.offset_in(stream) != Some(parsed.offset) {
            return Err(wrong());
        }
        let published = Self::new(event);
        let _ = published.frames[stream as usize].set(frame);
        Ok(published)
    }

    fn encode(&self, stream: StreamKind) -> Vec<u8> {
        #[derive(Serialize)]
        struct EventFrame<'a> {
            r#type: &'static str,
            event_id: EventId,
            app_id: &'a AppId,
            user_id: Option<&'a UserId>,
            event_category: Category,
            event_type: &'a str,
            entity_type: &'a str,
            entity_id: &'a str,
            event_data: &'a JsonObject,
            timestamp: Timestamp,
            created_at: Timestamp,
        }
        let event = &self.event;
        let mut json = serde_json::to_string(&EventFrame {
            r#type: "event",
            event_id: event.id,
            app_id: &event.app_id,
            user_id: event.user_id.as_ref(),
            event_category: event.category,
            event_type: &self.full_type,
            entity_type: &event.entity_type,
            entity_id: &event.entity_id,
            event_data: &event.data,
            timestamp: event.timestamp,
            created_at: event.created_at,
        })
        .unwrap_or_else(|_| "{".to_owned());
        json.pop();
        let _ = write!(json, r#","stream":"{}","offset":{}}}"#, stream.as_str(), self.offset_in(stream));
        json.into_bytes()
    }
}

/// The fields of an event's frame.
#[derive(Deserialize)]
struct EventFrameJson<'a> {
    event_id: EventId,
    #[serde(borrow)]
    app_id: Cow<'a, str>,
    #[serde(borrow)]
    user_id: Option<Cow<'a, str>>,
    event_category: &'a str,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    entity_type: Cow<'a, str>,
    #[serde(borrow)]
    entity_id: Cow<'a, str>,
    #[serde(borrow)]
    event_data: &'a RawValue,
    timestamp: Timestamp,
    created_at: Timestamp,
    offset: Offset,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{broadcast, event};

    #[test]
    fn a_frame_names_its_stream_and_that_streams_offset() {
        let published = event("alice", 7, 42);
        let frame = published.frame(StreamKind::User);
        let json: serde_json::Value = serde_json::from_slice(&frame[4..]).unwrap();
        assert_eq!(frame[0], 0x81);
        assert_eq!(json["type"], "event");
        assert_eq!(json["stream"], "user");
        assert_eq!(json["offset"], 7);
        assert_eq!(json["event_type"], "notification.created");
        let app: serde_json::Value = serde_json::from_slice(&published.frame(StreamKind::App)[4..]).unwrap();
        assert_eq!((app["stream"].as_str(), app["offset"].as_u64()), (Some("app"), Some(42)));
    }

    #[test]
    fn what_one_node_framed_another_passes_on_as_it_is() {
        for (published, stream) in [
            (event("alice\"é", 7, 42), StreamKind::User),
            (event("alice", 7, 42), StreamKind::App),
            (broadcast(3, 43), StreamKind::Broadcast),
        ] {
            let (event, frame) = (published.event(), published.frame(stream));
            let parsed =
                PublishedEvent::from_frame(stream, frame.clone(), event.offsets, event.from_platform, None).unwrap();
            assert_eq!(parsed.frame(stream), frame);
            assert_eq!(format!("{:?}", parsed.event()), format!("{event:?}"));
            assert_eq!(parsed.full_type(), published.full_type());
        }
    }

    #[test]
    fn what_is_no_frame_of_an_event_is_not_passed_on() {
        let published = event("alice", 7, 42);
        let (offsets, frame) = (published.event().offsets, published.frame(StreamKind::User));
        let elsewhere = Offsets { user: Some(8), ..offsets };
        assert!(PublishedEvent::from_frame(StreamKind::User, frame.clone(), elsewhere, false, None).is_err());
        let mut longer = frame.to_vec();
        longer.push(b' ');
        let mut binary = frame.to_vec();
        binary[0] = 0x82;
        for other in [longer, binary] {
            assert!(PublishedEvent::from_frame(StreamKind::User, other.into(), offsets, false, None).is_err());
        }
        for length in [0, 1, 2, 4, 20, frame.len() - 1] {
            assert!(
                PublishedEvent::from_frame(StreamKind::User, frame.slice(..length), offsets, false, None).is_err(),
                "{length}"
            );
        }
    }
}
