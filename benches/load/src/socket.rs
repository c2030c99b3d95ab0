//! A small WebSocket client: a server's frames are not masked and not fragmented, so their
//! first and last bytes are enough to count them, to check offsets and to measure latencies.

use std::{cell::RefCell, net::SocketAddr, sync::Arc};

use memchr::memmem::Finder;
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};

use crate::{Failure, measure::Counters};

/// Size of the read buffer. There is one for each thread, and none for a socket.
const READ: usize = 256 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// A socket that is open.
pub struct Socket {
    stream: TcpStream,
    /// The part of a frame that has arrived.
    rest: Vec<u8>,
    /// The last offset of its own stream, and of the broadcasts'.
    pub last: u64,
    pub last_broadcast: u64,
    finder: Arc<Finder<'static>>,
}

/// Precedes the moment when an event was due, in µs on the tool's own clock.
pub fn due_finder() -> Arc<Finder<'static>> {
    Arc::new(Finder::new(br#""due":"#))
}

impl Socket {
    /// Connects, from a source address where one is given, and subscribes to everything, after an offset where one is
    /// given. Returns when that is answered.
    pub async fn open(
        addr: SocketAddr,
        source: Option<SocketAddr>,
        host: &str,
        token: &str,
        after: Option<u64>,
        finder: &Arc<Finder<'static>>,
    ) -> Result<Self, Failure> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = source {
            // The port is chosen when it connects: many of an earlier run's are still waiting to be forgotten, and bind would
            // search among them.
            setsockopt(&socket, IpBindAddressNoPort, &true).map_err(std::io::Error::from)?;
            socket.bind(source)?;
        }
        let mut stream = socket.connect(addr).await?;
        stream.set_nodelay(true)?;
        let handshake = format!(
            "GET /api/v1/events/stream HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(handshake.as_bytes()).await?;
        let mut opened = Self { stream, rest: Vec::new(), last: 0, last_broadcast: 0, finder: finder.clone() };
        let head = opened.until(|seen| memchr::memmem::find(seen, b"\r\n\r\n").map(|at| at + 4)).await?;
        if !head.starts_with(b"HTTP/1.1 101") {
            return Err(Failure::Refused(0, String::from_utf8_lossy(&head).into_owned()));
        }
        let welcome = opened.until(|seen| frame_end(seen).map(|(_, end)| end)).await?;
        let number = |name: &str| {
            let at = memchr::memmem::find(&welcome, name.as_bytes())? + name.len();
            let digits = welcome[at..].iter().take_while(|byte| byte.is_ascii_digit());
            Some(digits.fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0')))
        };
        opened.last = after.unwrap_or_else(|| number(r#""offset":"#).unwrap_or(0));
        opened.last_broadcast = number(r#""broadcast_offset":"#).unwrap_or(0);
        let after = after.map(|offset| format!(r#","after":{offset}"#)).unwrap_or_default();
        opened.say(&format!(r#"{{"action":"subscribe","event_types":["**"]{after}}}"#)).await?;
        opened.until(|seen| frame_end(seen).map(|(_, end)| end)).await?;
        opened.rest.shrink_to_fit();
        Ok(opened)
    }

    async fn say(&mut self, text: &str) -> Result<(), Failure> {
        // A mask of zeros is a mask (RFC 6455 §5.3), and costs nothing.
        let mut frame = vec![0x81];
        match u8::try_from(text.len()) {
            Ok(short @ 0..=125) => frame.push(0x80 | short),
            _ => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(text.len() as u16).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        Ok(self.stream.write_all(&frame).await?)
    }

    /// Reads until there is a whole frame, and handles it.
    async fn until(&mut self, mut end: impl FnMut(&[u8]) -> Option<usize>) -> Result<Vec<u8>, Failure> {
        loop {
            if let Some(end) = end(&self.rest) {
                let rest = self.rest.split_off(end);
                return Ok(std::mem::replace(&mut self.rest, rest));
            }
            self.stream.readable().await?;
            let mut some = [0; 2048];
            match self.stream.try_read(&mut some) {
                Ok(0) => return Err(Failure::Closed),
                Ok(count) => self.rest.extend_from_slice(&some[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Handles frames until the socket ends or `enough` returns true. Counts offsets that do not follow each other.
    pub async fn follow(&mut self, counters: &Counters, mut enough: impl FnMut(&Self) -> bool) -> Result<(), Failure> {
        let rest = std::mem::take(&mut self.rest);
        self.take(&rest, counters)?;
        while !enough(self) {
            self.stream.readable().await?;
            let taken = BUFFER.with_borrow_mut(|buffer| -> Result<(), Failure> {
                let held = self.rest.len();
                buffer[..held].copy_from_slice(&self.rest);
                match self.stream.try_read(&mut buffer[held..]) {
                    Ok(0) => Err(Failure::Closed),
                    Ok(count) => {
                        self.rest.clear();
                        self.take(&buffer[..held + count], counters)
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
                    Err(error) => Err(error.into()),
                }
            });
            taken?;
        }
        Ok(())
    }

    fn take(&mut self, mut seen: &[u8], counters: &Counters) -> Result<(), Failure> {
        let now = counters.now_us();
        while let Some((begin, end)) = frame_end(seen) {
            match seen[0] & 0x0f {
                1 => self.event(&seen[begin..end], now, counters),
                8 => return Err(Failure::Closed),
                9 => counters.pinged(),
                _ => {}
            }
            seen = &seen[end..];
        }
        self.rest.extend_from_slice(seen);
        Ok(())
    }

    fn event(&mut self, text: &[u8], now: u64, counters: &Counters) {
        // {"type":"event",…,"stream":"user","offset":42}
        if !text.starts_with(br#"{"type":"event""#) {
            return;
        }
        let (mut offset, mut unit, mut at) = (0_u64, 1_u64, text.len() - 2);
        while at > 0 && text[at].is_ascii_digit() {
            offset += unit * u64::from(text[at] - b'0');
            unit = unit.wrapping_mul(10);
            at -= 1;
        }
        let is_broadcast = text[..at].ends_with(br#""broadcast","offset""#);
        let last = if is_broadcast { &mut self.last_broadcast } else { &mut self.last };
        match offset.cmp(&(*last + 1)) {
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => counters.lost(offset - *last - 1),
            std::cmp::Ordering::Less => return counters.repeated(),
        }
        *last = offset;
        let due = self.finder.find(text).map(|at| {
            let digits = text[at + 6..].iter().take_while(|byte| byte.is_ascii_digit());
            digits.fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'))
        });
        counters.delivered(due.map(|due| now.saturating_sub(due)));
    }
}

/// Begin and end of the first frame's payload, if all of it has arrived.
fn frame_end(seen: &[u8]) -> Option<(usize, usize)> {
    let (begin, length) = match seen.get(1)? & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes([*seen.get(2)?, *seen.get(3)?]))),
        127 => (10, u64::from_be_bytes(seen.get(2..10)?.try_into().ok()?) as usize),
        short => (2, usize::from(short)),
    };
    (seen.len() >= begin + length).then_some((begin, begin + length))
}
