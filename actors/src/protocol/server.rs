//! Frames from the hub to a client, encoded with their WebSocket header (RFC 6455 §5.2; a server's are unmasked).

use bytes::Bytes;
use serde::Serialize;

use super::{client::FrameId, close::Close};
use crate::model::{AppId, ConnectionId, Offset, Timestamp, UserId, WebhookId};

/// A frame for one socket, or for all sockets of an app. Events are not among them: they are encoded once for all sockets (see
/// `PublishedEvent::frame`).
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerFrame<'a> {
    /// The first frame of every socket.
    Welcome {
        /// Names this socket in the hub's log.
        connection_id: ConnectionId,
        /// The user; null for an app.
        user_id: Option<&'a UserId>,
        /// The app; null for a user whose token opens all apps.
        app_id: Option<&'a AppId>,
        /// Where the socket's own stream stands: what comes later is sent.
        offset: Offset,
        /// The same for the broadcast stream.
        broadcast_offset: Offset,
        /// The store's epoch, to be sent back with `after`.
        epoch: &'a str,
        /// Seconds.
        heartbeat_interval: u64,
        /// When the credential ends; null for an API key.
        expires_at: Option<Timestamp>,
    },
    /// Answers a `subscribe`.
    Subscribed {
        /// Every pattern that the socket holds now.
        event_types: Vec<&'a str>,
        /// Patterns that no event can match.
        #[serde(skip_serializing_if = "Option::is_none")]
        warning: Option<String>,
        /// The `id` of the frame that this answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a FrameId>,
    },
    /// Answers an `unsubscribe`.
    Unsubscribed {
        /// Every pattern that the socket holds now.
        event_types: Vec<&'a str>,
        /// The `id` of the frame that this answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a FrameId>,
    },
    /// Ends a replay.
    Resumed {
        /// Where the replay began, in the socket's own stream.
        after: Offset,
        /// Where it ended.
        offset: Offset,
        /// Where it began in the broadcast stream.
        after_broadcast: Offset,
        /// Where it ended there.
        broadcast_offset: Offset,
        /// False: history no longer reaches back, and the client must reload its state.
        recovered: bool,
        /// Number of events sent.
        replayed: u64,
        /// The `id` of the frame that this answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a FrameId>,
    },
    /// Answers a `refresh`.
    Refreshed {
        /// When the new token ends.
        expires_at: Option<Timestamp>,
        /// The `id` of the frame that this answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a FrameId>,
    },
    /// Answers a `ping`.
    Pong {
        /// The `id` of the frame that this answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a FrameId>,
    },
    /// A webhook of the app was disabled; sent to the app's own sockets.
    #[serde(rename = "webhook.disabled")]
    WebhookDisabled {
        /// The webhook.
        webhook_id: WebhookId,
        /// Why, as `disabled_reason` of the webhook says.
        reason: &'a str,
    },
    /// The answer to a frame that was not done.
    Error {
        /// A code of contract §2.
        code: &'a str,
        /// For the developer of the client.
        message: &'a str,
        /// The `id` of the frame that this answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a FrameId>,
    },
}

impl ServerFrame<'_> {
    /// The whole WebSocket frame, header included.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        text_frame(&serde_json::to_vec(self).unwrap_or_default())
    }
}

pub(super) const TEXT: u8 = 0x1;
/// RSV1: the message is compressed (RFC 7692 §6).
pub(super) const DEFLATED: u8 = 0x40;
#[cfg(feature = "echo")]
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// A text message in one unmasked frame.
#[must_use]
pub fn text_frame(payload: &[u8]) -> Bytes {
    frame(TEXT, payload)
}

/// The text within a frame that [`text_frame`] made. `None` if the bytes are anything else.
#[must_use]
pub fn frame_text(frame: &[u8]) -> Option<&str> {
    let (header, length) = match (frame, frame.get(1)?) {
        ([first, ..], _) if *first != 0x80 | TEXT => return None,
        (_, length @ 0..=125) => (2, usize::from(*length)),
        (_, 126) => (4, usize::from(u16::from_be_bytes(frame.get(2..4)?.try_into().ok()?))),
        (_, 127) => (10, usize::try_from(u64::from_be_bytes(frame.get(2..10)?.try_into().ok()?)).ok()?),
        _ => return None,
    };
    let text = frame.get(header..)?;
    if text.len() == length { std::str::from_utf8(text).ok() } else { None }
}

/// A binary message in one unmasked frame.
#[cfg(feature = "echo")]
pub(crate) fn binary_frame(payload: &[u8]) -> Bytes {
    frame(BINARY, payload)
}

/// A ping without payload.
#[must_use]
pub fn ping_frame() -> Bytes {
    Bytes::from_static(&[0x80 | PING, 0])
}

/// The answer to a ping, with the ping's payload (at most 125 bytes, RFC 6455 §5.5.3).
#[must_use]
pub fn pong_frame(payload: &[u8]) -> Bytes {
    frame(PONG, payload)
}

/// A close frame with code and reason.
#[must_use]
pub fn close_frame(close: Close) -> Bytes {
    close_frame_with(close.code(), close.reason())
}

pub(crate) fn close_frame_with(code: u16, reason: &str) -> Bytes {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    frame(CLOSE, &payload)
}

/// A close frame without a code. It answers a client's close frame without a code.
pub(crate) fn bare_close_frame() -> Bytes {
    Bytes::from_static(&[0x80 | CLOSE, 0])
}

pub(super) fn frame(opcode: u8, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(payload.len() + 10);
    out.push(0x80 | opcode);
    match payload.len() {
        len @ 0..=125 => out.push(len as u8),
        len @ 126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_grows_with_the_payload() {
        assert_eq!(&text_frame(b"hi")[..], b"\x81\x02hi");
        assert_eq!(&text_frame(&[b'x'; 126])[..4], b"\x81\x7e\x00\x7e");
        assert_eq!(&text_frame(&[b'x'; 65536])[..10], b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00");
    }

    #[test]
    fn frames_say_their_type_first() {
        let frame = ServerFrame::Pong { id: None }.encode();
        assert_eq!(&frame[2..], br#"{"type":"pong"}"#);
    }
}
