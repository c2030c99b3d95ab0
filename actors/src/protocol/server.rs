//! Frames from the hub to a client, encoded with their WebSocket header (RFC 6455 §5.2; a server's are unmasked).

use bytes::Bytes;
use serde::Serialize;

use super::{client::FrameId, close::Close};
use crate::model::{AppId, ConnectionId, Offset, Timestamp, UserId, WebhookId};

/// A frame for one socket. Events are not among them: they are encoded once for all sockets (see
/// `PublishedEvent::frame`).
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerFrame<'a> {
    Welcome {
        connection_id: ConnectionId,
        user_id: Option<&'a UserId>,
        app_id: Option<&'a AppId>,
        offset: Offset,
        broadcast_offset: Offset,
        epoch: &'a str,
        /// Seconds.
        heartbeat_interval: u64,
        expires_at: Option<Timestamp>,
    },
    Subscribed {
        event_types: Vec<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        warning: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a FrameId>,
    },
    Unsubscribed {
        event_types: Vec<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a FrameId>,
    },
    Resumed {
        after: Offset,
        offset: Offset,
        after_broadcast: Offset,
        broadcast_offset: Offset,
        recovered: bool,
        replayed: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a FrameId>,
    },
    Refreshed {
        expires_at: Option<Timestamp>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a FrameId>,
    },
    Pong {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a FrameId>,
    },
    #[serde(rename = "webhook.disabled")]
    WebhookDisabled { webhook_id: WebhookId, reason: &'a str },
    Error {
        code: &'a str,
        message: &'a str,
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
pub fn text_of(frame: &[u8]) -> Option<&str> {
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
