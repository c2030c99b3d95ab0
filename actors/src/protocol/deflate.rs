//! permessage-deflate (RFC 7692) without context takeover: each message is compressed on its own. So an event is
//! compressed once for all sockets, and an idle socket holds no compressor. Each thread has one compressor and one
//! decompressor.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{
    close::Close,
    server::{DEFLATED, TEXT, frame, frame_text},
};

/// The end of a compressed message, which is not sent (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];
/// Bytes to decompress in one step. A message's own claim about its length is not trusted.
const STEP: usize = 16 * 1024;

thread_local! {
    static COMPRESS: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
    static DECOMPRESS: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Compresses a frame. Returns the frame unchanged if it is not text, or if compression would not make it shorter.
#[must_use]
pub fn deflated(text_frame: &Bytes) -> Bytes {
    let compressed = frame_text(text_frame).and_then(|text| deflate(text.as_bytes()));
    match compressed.map(|payload| frame(DEFLATED | TEXT, &payload)) {
        Some(compressed) if compressed.len() < text_frame.len() => compressed,
        _ => text_frame.clone(),
    }
}

fn deflate(message: &[u8]) -> Option<Vec<u8>> {
    COMPRESS.with_borrow_mut(|compress| {
        compress.reset();
        // The buffer has room only for a shorter message. If that is not enough, the message is sent uncompressed.
        let mut payload = Vec::with_capacity(message.len() + TAIL.len());
        let status = compress.compress_vec(message, &mut payload, FlushCompress::Sync).ok()?;
        let is_whole =
            status == Status::Ok && compress.total_in() == message.len() as u64 && payload.len() < payload.capacity();
        (is_whole && payload.ends_with(&TAIL)).then(|| {
            payload.truncate(payload.len() - TAIL.len());
            payload
        })
    })
}

/// Decompresses a client's message.
///
/// # Errors
/// [`Close::TooBig`] where it is longer than `max_bytes`, without holding more than that in memory.
/// [`Close::InvalidData`] where the payload is not compressed data.
pub(crate) fn inflate(payload: &[u8], max_bytes: usize) -> Result<Vec<u8>, Close> {
    DECOMPRESS.with_borrow_mut(|decompress| {
        decompress.reset(false);
        let mut message = Vec::new();
        let mut step = [0; STEP];
        for mut rest in [payload, &TAIL] {
            loop {
                let (taken, given) = (decompress.total_in(), decompress.total_out());
                let status = decompress.decompress(rest, &mut step, FlushDecompress::Sync);
                let status = status.map_err(|_| Close::InvalidData)?;
                let (taken, given) = (decompress.total_in() - taken, decompress.total_out() - given);
                message.extend_from_slice(&step[..given as usize]);
                if message.len() > max_bytes {
                    return Err(Close::TooBig);
                }
                rest = &rest[taken as usize..];
                if status == Status::StreamEnd {
                    // A block that is marked as final ends the compressed stream, but not the message (RFC 7692
                    // §7.2.3.4).
                    decompress.reset(false);
                }
                if rest.is_empty() && (given as usize) < STEP {
                    break;
                }
                if taken == 0 && given == 0 {
                    return Err(Close::InvalidData);
                }
            }
        }
        Ok(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::text_frame;

    /// What is behind the header of a server's frame.
    fn payload(frame: &[u8]) -> &[u8] {
        match frame[1] {
            126 => &frame[4..],
            127 => &frame[10..],
            _ => &frame[2..],
        }
    }

    #[test]
    fn what_is_deflated_inflates_to_the_same() {
        for length in [200, 1000, 16 * 1024 - 1, 16 * 1024, 100_000] {
            let text: String = (0..length).map(|n| char::from(b'a' + (n * n % 23) as u8)).collect();
            let frame = deflated(&text_frame(text.as_bytes()));
            assert_eq!(frame[0], 0xC1, "{length}");
            assert!(frame.len() < text.len());
            assert_eq!(inflate(payload(&frame), length), Ok(text.into_bytes()));
        }
    }

    #[test]
    fn what_would_not_get_shorter_is_sent_as_it_is() {
        let noise: String = (0..300).map(|_| char::from(rand::random_range(b' '..b'~'))).collect();
        for text in ["", "hi", noise.as_str()] {
            let frame = text_frame(text.as_bytes());
            assert!(deflated(&frame).len() <= frame.len());
        }
        assert_eq!(deflated(&text_frame(b"hi"))[0], 0x81);
    }

    #[test]
    fn a_bomb_is_cut_off_and_nonsense_is_refused() {
        let zeros = deflated(&text_frame(&vec![b'0'; 10_000_000]));
        assert!(zeros.len() < 100_000);
        assert_eq!(inflate(payload(&zeros), 65_536), Err(Close::TooBig));
        assert_eq!(inflate(&[0xFF; 40], 65_536), Err(Close::InvalidData));
        // What failed leaves nothing behind.
        assert_eq!(inflate(payload(&deflated(&text_frame(&[b'x'; 200]))), 200), Ok(vec![b'x'; 200]));
        assert_eq!(inflate(&[], 200), Ok(Vec::new()));
    }

    #[test]
    fn a_message_may_end_its_stream_of_blocks() {
        // RFC 7692 §7.2.3.4: "Hello" in a block with BFINAL set, and a byte of padding.
        assert_eq!(inflate(&[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00], 100), Ok(b"Hello".to_vec()));
        // §7.2.3.5: in two blocks.
        let two = [0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00];
        assert_eq!(inflate(&two, 100), Ok(b"Hello".to_vec()));
    }
}
