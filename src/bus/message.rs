//! Messages on the bus: a header of fixed size and, for an event, the very frame that sockets are sent.

use std::sync::Arc;

use bytes::Bytes;
use oriva_hub_actors::{
    model::{NodeId, Offsets, StreamKey, StreamKind, TraceParent},
    protocol::{PublishedEvent, frame_text},
};
use uuid::Uuid;

/// Version of the format. A node that receives another version resynchronises instead.
const VERSION: u8 = 1;
/// Bytes of the header: version, kind, origin.
const HEADER: usize = 18;
/// Bytes of an event's header: three offsets and the flags.
const EVENT_HEADER: usize = 25;

/// Flag: the event is of a platform app.
const FROM_PLATFORM: u8 = 1;
/// Flag: a trace context stands between header and frame.
const TRACED: u8 = 2;

const BEAT: u8 = 0;
const RESYNC: u8 = 1;
const CREDENTIALS: u8 = 2;
const EVENT: u8 = 3;
const FRAME: u8 = 4;
const PROBE: u8 = 5;

/// What a node sends to the others.
#[derive(Debug)]
pub(super) enum Message {
    /// A heartbeat.
    Beat,
    /// Something may be committed of which no message came: compare with the store.
    Resync,
    /// A credential changed.
    Credentials,
    /// A committed event, on the channel of one of its streams.
    Event(Arc<PublishedEvent>),
    /// A frame that is no event, for the sockets of a stream.
    Frame(Bytes),
    /// All connections of a stream are taken, and one more is wanted: drop the sockets that do not answer.
    Probe,
}

/// Why a message is passed over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DecodeError {
    /// This node sent it.
    Own,
    /// Its format is unknown.
    Form,
}

impl Message {
    /// Encodes the message for the channel of a stream of this kind.
    pub(super) fn encode(&self, origin: NodeId, stream: StreamKind) -> Vec<u8> {
        let head = |kind, rest: usize| {
            let mut bytes = Vec::with_capacity(HEADER + rest);
            bytes.extend_from_slice(&[VERSION, kind]);
            bytes.extend_from_slice(origin.0.as_bytes());
            bytes
        };
        match self {
            Self::Beat => head(BEAT, 0),
            Self::Resync => head(RESYNC, 0),
            Self::Credentials => head(CREDENTIALS, 0),
            Self::Probe => head(PROBE, 0),
            Self::Event(event) => {
                let frame = event.frame(stream);
                let trace = event.event().trace;
                let mut bytes = head(EVENT, EVENT_HEADER + TraceParent::LENGTH + frame.len());
                let Offsets { app, user, broadcast } = event.event().offsets;
                for offset in [app, user.unwrap_or(0), broadcast.unwrap_or(0)] {
                    bytes.extend_from_slice(&offset.to_be_bytes());
                }
                let flags = if event.event().from_platform { FROM_PLATFORM } else { 0 };
                bytes.push(flags | if trace.is_some() { TRACED } else { 0 });
                if let Some(trace) = trace {
                    bytes.extend_from_slice(&trace.to_bytes());
                }
                bytes.extend_from_slice(&frame);
                bytes
            }
            Self::Frame(frame) => {
                let mut bytes = head(FRAME, frame.len());
                bytes.extend_from_slice(frame);
                bytes
            }
        }
    }

    /// Decodes a message from the channel of a stream of this kind.
    ///
    /// # Errors
    /// [`DecodeError`]; own messages among them, but for heartbeats.
    pub(super) fn decode(bytes: Bytes, own: NodeId, stream: StreamKind) -> Result<(NodeId, Self), DecodeError> {
        let (kind, origin) = match bytes.get(..HEADER) {
            Some([VERSION, kind, origin @ ..]) => {
                (*kind, NodeId(Uuid::from_slice(origin).map_err(|_| DecodeError::Form)?))
            }
            _ => return Err(DecodeError::Form),
        };
        // A node judges the connection by its own heartbeat.
        if origin == own && kind != BEAT {
            return Err(DecodeError::Own);
        }
        let message = match kind {
            BEAT => Self::Beat,
            RESYNC => Self::Resync,
            CREDENTIALS => Self::Credentials,
            PROBE => Self::Probe,
            EVENT => {
                let head = bytes.get(HEADER..HEADER + EVENT_HEADER).ok_or(DecodeError::Form)?;
                let offset = |index: usize| {
                    head[index * 8..][..8].iter().fold(0_u64, |offset, byte| offset << 8 | u64::from(*byte))
                };
                let some = |offset: u64| (offset > 0).then_some(offset);
                let offsets = Offsets { app: offset(0), user: some(offset(1)), broadcast: some(offset(2)) };
                let flags = head[EVENT_HEADER - 1];
                let rest = bytes.slice(HEADER + EVENT_HEADER..);
                let (trace, frame) = if flags & TRACED == 0 {
                    (None, rest)
                } else {
                    let trace = rest.first_chunk().ok_or(DecodeError::Form)?;
                    (Some(TraceParent::from_bytes(*trace)), rest.slice(TraceParent::LENGTH..))
                };
                let event = PublishedEvent::from_frame(stream, frame, offsets, flags & FROM_PLATFORM != 0, trace)
                    .map_err(|_| DecodeError::Form)?;
                Self::Event(event)
            }
            FRAME => {
                let frame = bytes.slice(HEADER..);
                frame_text(&frame).ok_or(DecodeError::Form)?;
                Self::Frame(frame)
            }
            _ => return Err(DecodeError::Form),
        };
        Ok((origin, message))
    }
}

/// The channel of a stream: `user:alice`.
pub(super) fn channel_name(stream: &StreamKey) -> String {
    match stream {
        StreamKey::Broadcast => "broadcast".to_owned(),
        StreamKey::User(_) | StreamKey::App(_) => format!("{}:{}", stream.kind().as_str(), stream.name()),
    }
}

#[cfg(test)]
mod tests {
    use oriva_hub_actors::{
        model::Event,
        testing::{broadcast, event},
    };

    use super::*;

    #[test]
    fn an_event_arrives_with_its_frame_and_offsets() {
        let (own, other) = (NodeId::generate(), NodeId::generate());
        for (published, stream) in
            [(event("alice", 7, 42), StreamKind::User), (broadcast(3, 43), StreamKind::Broadcast)]
        {
            let bytes: Bytes = Message::Event(published.clone()).encode(other, stream).into();
            assert_eq!(Message::decode(bytes.clone(), other, stream).unwrap_err(), DecodeError::Own);
            let Ok((origin, Message::Event(beats))) = Message::decode(bytes, own, stream) else { panic!("an event") };
            assert_eq!(origin, other);
            assert_eq!(beats.event().offsets, published.event().offsets);
            assert_eq!(beats.event().trace, published.event().trace);
            assert_eq!(beats.frame(stream), published.frame(stream));
        }
    }

    #[test]
    fn the_trace_of_an_event_goes_with_it() {
        let trace = TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let traced = PublishedEvent::new(Event { trace, ..event("alice", 7, 42).event().clone() });
        let bytes: Bytes = Message::Event(traced.clone()).encode(NodeId::generate(), StreamKind::User).into();
        let decoded = Message::decode(bytes.clone(), NodeId::generate(), StreamKind::User);
        let Ok((_, Message::Event(beats))) = decoded else { panic!("an event") };
        assert_eq!(beats.event().trace, trace);
        assert_eq!(beats.frame(StreamKind::User), traced.frame(StreamKind::User));
        for length in 0..bytes.len() {
            let part = Message::decode(bytes.slice(..length), NodeId::generate(), StreamKind::User);
            assert!(part.is_err(), "{length}");
        }
    }

    #[test]
    fn whatever_else_comes_is_strange_and_nothing_worse() {
        let own = NodeId::generate();
        let whole_number: Bytes =
            Message::Event(event("alice", 7, 42)).encode(NodeId::generate(), StreamKind::User).into();
        for length in 0..whole_number.len() {
            assert!(Message::decode(whole_number.slice(..length), own, StreamKind::User).is_err(), "{length}");
        }
        // Bytes that are no frame would break the sockets that they are passed on to.
        for frame in [&b""[..], b"hello", b"\x81\x7e\x01", b"\x81\x05hell", b"\x81\x01\xff"] {
            let message = Message::Frame(Bytes::copy_from_slice(frame)).encode(NodeId::generate(), StreamKind::User);
            assert_eq!(Message::decode(message.into(), own, StreamKind::User).unwrap_err(), DecodeError::Form);
        }
        let mut newer = whole_number.to_vec();
        newer[0] = VERSION + 1;
        assert_eq!(Message::decode(newer.into(), own, StreamKind::User).unwrap_err(), DecodeError::Form);
    }
}
