//! Assembles messages from bytes by RFC 6455: masking, fragments, control frames between them, UTF-8, close codes.

use actix_http::ws::{OpCode, Parser};
use actix_web_actors::ws::{CloseReason, ProtocolError};
use bytes::{Bytes, BytesMut};

use crate::protocol::{Close, inflate};

/// The first reserved bit of a frame (RFC 6455 §5.2).
const RSV1: u8 = 0x40;

/// A whole message, or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// Valid UTF-8.
    Text(Bytes),
    Binary(Bytes),
    Ping(Bytes),
    Pong,
    Close(Option<CloseReason>),
}

/// The state between two frames. Empty for an idle socket.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    partial: Option<Box<Partial>>,
    /// permessage-deflate was negotiated.
    deflate: bool,
    /// The frame being read is the first of a compressed message.
    is_compressed: bool,
}

#[derive(Debug)]
struct Partial {
    is_text: bool,
    is_compressed: bool,
    data: BytesMut,
    /// Length of the prefix of `data` that is valid UTF-8.
    valid: usize,
}

impl Assembler {
    pub(crate) fn new(deflate: bool) -> Self {
        Self { deflate, ..Self::default() }
    }

    /// Whether permessage-deflate was negotiated.
    pub(crate) fn deflates(&self) -> bool {
        self.deflate
    }

    /// Removes the bit of a compressed message (RFC 7692 §6) from the next frame, because the parser does not know it.
    fn take_mark(&mut self, src: &mut BytesMut) -> Result<(), Close> {
        if let Some(first) = src.first_mut()
            && *first & RSV1 != 0
            && self.deflate
        {
            *first &= !RSV1;
            if !matches!(OpCode::from(*first & 0x0F), OpCode::Text | OpCode::Binary) {
                return Err(Close::Protocol);
            }
            self.is_compressed = true;
        }
        Ok(())
    }

    /// Takes the next message or control frame from `src`.
    ///
    /// # Errors
    /// The close code for a violation of the protocol.
    pub(crate) fn next(&mut self, src: &mut BytesMut, max_bytes: usize) -> Result<Option<Incoming>, Close> {
        loop {
            self.take_mark(src)?;
            // Checked before parsing: the parser checks a frame's length only when the whole frame is in memory. A control
            // frame between the fragments of a message is no part of the message.
            let sofar = self.partial.as_ref().filter(|_| !is_control(src)).map_or(0, |partial| partial.data.len());
            if declared_length(src).is_some_and(|length| length > (max_bytes - sofar) as u64) {
                return Err(Close::TooBig);
            }
            let Some((finished, opcode, payload)) = Parser::parse(src, true, max_bytes).map_err(violation)? else {
                return Ok(None);
            };
            let payload = payload.unwrap_or_default();
            let incoming = match opcode {
                OpCode::Ping | OpCode::Pong | OpCode::Close if !finished => return Err(Close::Protocol),
                OpCode::Ping => Incoming::Ping(payload.freeze()),
                OpCode::Pong => Incoming::Pong,
                OpCode::Close => Incoming::Close(close_reason(&payload)?),
                OpCode::Text | OpCode::Binary if self.partial.is_some() => return Err(Close::Protocol),
                OpCode::Text | OpCode::Binary => {
                    let is_compressed = std::mem::take(&mut self.is_compressed);
                    let mut partial =
                        Partial { is_text: opcode == OpCode::Text, is_compressed, data: payload, valid: 0 };
                    partial.check_text(finished)?;
                    if finished {
                        partial.into_message(max_bytes)?
                    } else {
                        self.partial = Some(Box::new(partial));
                        continue;
                    }
                }
                OpCode::Continue => {
                    let partial = self.partial.as_mut().ok_or(Close::Protocol)?;
                    partial.data.extend_from_slice(&payload);
                    partial.check_text(finished)?;
                    if !finished {
                        continue;
                    }
                    match self.partial.take() {
                        Some(partial) => partial.into_message(max_bytes)?,
                        None => return Err(Close::Protocol),
                    }
                }
                OpCode::Bad => return Err(Close::Protocol),
            };
            return Ok(Some(incoming));
        }
    }
}

impl Partial {
    /// Fails as soon as the text cannot become valid UTF-8, not only at its end.
    fn check_text(&mut self, finished: bool) -> Result<(), Close> {
        if !self.is_text || self.is_compressed {
            return Ok(());
        }
        match std::str::from_utf8(&self.data[self.valid..]) {
            Ok(_) => self.valid = self.data.len(),
            Err(error) if error.error_len().is_none() && !finished => self.valid += error.valid_up_to(),
            Err(_) => return Err(Close::InvalidData),
        }
        Ok(())
    }

    fn into_message(self, max_bytes: usize) -> Result<Incoming, Close> {
        let data = if self.is_compressed {
            let data = inflate(&self.data, max_bytes)?;
            if self.is_text && std::str::from_utf8(&data).is_err() {
                return Err(Close::InvalidData);
            }
            data.into()
        } else {
            self.data.freeze()
        };
        Ok(if self.is_text { Incoming::Text(data) } else { Incoming::Binary(data) })
    }
}

/// Whether the next frame is a control frame (RFC 6455 §5.5).
fn is_control(src: &[u8]) -> bool {
    src.first().is_some_and(|first| first & 0x08 != 0)
}

/// The payload length in a frame's header. `None` while the header is incomplete (RFC 6455 §5.2).
fn declared_length(src: &[u8]) -> Option<u64> {
    match *src.get(1)? & 0x7F {
        126 => Some(u64::from(u16::from_be_bytes(src.get(2..4)?.try_into().ok()?))),
        127 => Some(u64::from_be_bytes(src.get(2..10)?.try_into().ok()?)),
        short => Some(u64::from(short)),
    }
}

fn close_reason(payload: &[u8]) -> Result<Option<CloseReason>, Close> {
    Parser::try_parse_close_payload(payload).map_err(|_| {
        let bad_text = payload.len() > 2 && std::str::from_utf8(&payload[2..]).is_err();
        if bad_text { Close::InvalidData } else { Close::Protocol }
    })
}

fn violation(error: ProtocolError) -> Close {
    match error {
        ProtocolError::Overflow => Close::TooBig,
        _ => Close::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1024;

    /// A client's frame, masked with zeros so that the bytes stay readable.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        if payload.len() < 126 {
            out.push(0x80 | payload.len() as u8);
        } else {
            out.push(0x80 | 126);
            out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(payload);
        out
    }

    fn all(bytes: &[u8]) -> (Vec<Incoming>, Option<Close>) {
        let (mut assembler, mut src, mut out) = (Assembler::default(), BytesMut::from(bytes), Vec::new());
        loop {
            match assembler.next(&mut src, MAX) {
                Ok(Some(incoming)) => out.push(incoming),
                Ok(None) => return (out, None),
                Err(close) => return (out, Some(close)),
            }
        }
    }

    #[test]
    fn fragments_become_one_message_with_a_ping_between_them() {
        let bytes = [frame(0x01, b"he"), frame(0x89, b"p"), frame(0x80, b"llo")].concat();
        let (messages, close) = all(&bytes);
        assert_eq!(messages, [Incoming::Ping(Bytes::from_static(b"p")), Incoming::Text(Bytes::from_static(b"hello"))]);
        assert_eq!(close, None);
    }

    #[test]
    fn a_ping_counts_nothing_towards_the_message_around_it() {
        let bytes = [frame(0x01, &[b'x'; MAX - 1]), frame(0x89, &[b'p'; 125]), frame(0x80, b"x")].concat();
        let (messages, close) = all(&bytes);
        assert_eq!((messages.len(), close), (2, None));
    }

    #[test]
    fn a_character_may_be_split_over_fragments() {
        let euro = "€".as_bytes();
        let (messages, close) = all(&[frame(0x01, &euro[..1]), frame(0x80, &euro[1..])].concat());
        assert_eq!((messages, close), (vec![Incoming::Text(Bytes::from_static("€".as_bytes()))], None));
    }

    #[test]
    fn violations_have_their_code() {
        let big = vec![b'x'; MAX + 1];
        let half = vec![b'x'; MAX / 2 + 1];
        for (name, bytes, expected) in [
            ("unmasked", vec![0x81, 0x01, b'x'], Close::Protocol),
            ("reserved bit", frame(0xC1, b"x"), Close::Protocol),
            ("unknown opcode", frame(0x83, b"x"), Close::Protocol),
            ("fragmented ping", frame(0x09, b""), Close::Protocol),
            ("long ping", frame(0x89, &[0; 126]), Close::Protocol),
            ("continuation of nothing", frame(0x80, b"x"), Close::Protocol),
            ("text inside a message", [frame(0x01, b"a"), frame(0x81, b"b")].concat(), Close::Protocol),
            ("one-byte close", frame(0x88, &[3]), Close::Protocol),
            ("close code 1005", frame(0x88, &1005_u16.to_be_bytes()), Close::Protocol),
            ("close with bad text", frame(0x88, &[0x03, 0xE8, 0xFF]), Close::InvalidData),
            ("bad text", frame(0x81, &[0xFF]), Close::InvalidData),
            ("bad text in a fragment", frame(0x01, &[0xFF]), Close::InvalidData),
            ("cut text", frame(0x81, &[0xE2, 0x82]), Close::InvalidData),
            ("too big", frame(0x81, &big), Close::TooBig),
            ("too big in sum", [frame(0x01, &half), frame(0x80, &half)].concat(), Close::TooBig),
            ("too big, declared only", vec![0x81, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0], Close::TooBig),
        ] {
            assert_eq!(all(&bytes).1, Some(expected), "{name}");
        }
    }

    #[test]
    fn a_compressed_message_is_inflated_however_it_comes() {
        // RFC 7692 §7.2.3.1: "Hello".
        let hello = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
        let whole_number = frame(0xC1, &hello);
        let ping_between = [frame(0x41, &hello[..3]), frame(0x89, b"p"), frame(0x80, &hello[3..])].concat();
        for bytes in [whole_number, ping_between] {
            let (mut assembler, mut src, mut texts) = (Assembler::new(true), BytesMut::new(), Vec::new());
            for byte in bytes {
                src.extend_from_slice(&[byte]);
                if let Some(Incoming::Text(text)) = assembler.next(&mut src, MAX).unwrap() {
                    texts.push(text);
                }
            }
            assert_eq!(texts, [Bytes::from_static(b"Hello")]);
        }
        for (name, bytes, expected) in [
            ("compressed ping", frame(0xC9, b""), Close::Protocol),
            ("marked continuation", [frame(0x41, &hello[..3]), frame(0xC0, &hello[3..])].concat(), Close::Protocol),
            ("another reserved bit", frame(0xE1, &hello), Close::Protocol),
            ("bad data", frame(0xC1, &[0xFF; 20]), Close::InvalidData),
            // A block stored as it is, of the byte FF.
            ("bad text", frame(0xC1, &[0x00, 0x01, 0x00, 0xFE, 0xFF, 0xFF]), Close::InvalidData),
        ] {
            let mut src = BytesMut::from(&bytes[..]);
            let mut assembler = Assembler::new(true);
            let close = loop {
                match assembler.next(&mut src, MAX) {
                    Ok(Some(_)) => {}
                    other => break other.err(),
                }
            };
            assert_eq!(close, Some(expected), "{name}");
        }
    }

    #[test]
    fn bytes_may_come_one_by_one() {
        let (mut assembler, mut src) = (Assembler::default(), BytesMut::new());
        let bytes = frame(0x81, &[b'x'; 200]);
        for (index, byte) in bytes.iter().enumerate() {
            src.extend_from_slice(&[*byte]);
            let incoming = assembler.next(&mut src, MAX).unwrap();
            assert_eq!(incoming.is_some(), index == bytes.len() - 1, "byte {index}");
        }
    }
}
