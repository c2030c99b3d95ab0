//! The floor: an epoll loop that does only what every server must do. It takes the same requests as the hub,
//! trusts every token to be a user's name, keeps nothing, and writes the frames of one wake-up to a socket in one `writev`.
//! The difference to the hub in the same run is the cost of authentication, durability, order and resume.

use std::{
    collections::{HashMap, VecDeque},
    io::{ErrorKind, IoSlice, Read as _, Write as _},
    net::SocketAddr,
    sync::Arc,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

const LISTENER: Token = Token(usize::MAX);
/// Greatest number of frames in one `writev`.
const SLICES: usize = 64;
/// A client that takes nothing for this long is disconnected.
const BACKLOG: usize = 4 * 1024 * 1024;

#[derive(Default)]
struct Floor {
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    by_user: HashMap<String, (u64, Vec<usize>)>,
    app: (u64, Vec<usize>),
    broadcasts: u64,
    dirty: Vec<usize>,
}

struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    waiting: VecDeque<Arc<[u8]>>,
    /// Bytes of the first waiting frame that are written already.
    written: usize,
    backlog: usize,
    is_dirty: bool,
    /// The user, once the connection is a socket.
    user: Option<String>,
}

/// Serves until the process ends.
pub fn run(bind: SocketAddr) -> std::io::Result<()> {
    let mut poll = Poll::new()?;
    let socket = socket2::Socket::new(socket2::Domain::for_address(bind), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&bind.into())?;
    socket.listen(4096)?;
    let mut listener = TcpListener::from_std(socket.into());
    println!("floor listens on {}", listener.local_addr()?);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut floor = Floor::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    floor.adopt(stream, poll.registry())?;
                }
                continue;
            }
            let key = event.token().0;
            if event.is_readable() {
                floor.read(key, &mut buffer);
            }
            if event.is_writable() {
                floor.write(key);
            }
        }
        for key in std::mem::take(&mut floor.dirty) {
            floor.write(key);
        }
    }
}

impl Floor {
    fn adopt(&mut self, mut stream: TcpStream, registry: &mio::Registry) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let key = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        registry.register(&mut stream, Token(key), Interest::READABLE | Interest::WRITABLE)?;
        self.connections[key] = Some(Connection {
            stream,
            read: Vec::new(),
            waiting: VecDeque::new(),
            written: 0,
            backlog: 0,
            is_dirty: false,
            user: None,
        });
        Ok(())
    }

    fn end(&mut self, key: usize) {
        let Some(connection) = self.connections[key].take() else { return };
        match connection.user.as_deref() {
            Some("") => self.app.1.retain(|other| *other != key),
            Some(user) => {
                if let Some((_, sockets)) = self.by_user.get_mut(user) {
                    sockets.retain(|other| *other != key);
                }
            }
            None => {}
        }
        self.free.push(key);
    }

    fn read(&mut self, key: usize, buffer: &mut [u8]) {
        loop {
            let Some(connection) = &mut self.connections[key] else { return };
            match connection.stream.read(buffer) {
                Ok(0) => return self.end(key),
                Ok(count) => {
                    if connection.user.is_some() {
                        // Frames of clients are not parsed: every client subscribes to everything.
                        if memchr::memmem::find(&buffer[..count], b"subscribe").is_some() {
                            let answer = text_frame(br#"{"type":"subscribed","event_types":["**"]}"#);
                            self.push(key, &answer);
                        }
                        continue;
                    }
                    connection.read.extend_from_slice(&buffer[..count]);
                    self.requests(key);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.end(key),
            }
        }
    }

    fn requests(&mut self, key: usize) {
        loop {
            let Some(connection) = &mut self.connections[key] else { return };
            let Some(end) = memchr::memmem::find(&connection.read, b"\r\n\r\n") else { return };
            let head = String::from_utf8_lossy(&connection.read[..end]).into_owned();
            let header = |name: &str| {
                head.lines().find_map(|line| {
                    let (is, value) = line.split_once(':')?;
                    is.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
                })
            };
            if header("upgrade").is_some() {
                let credential = header("authorization").unwrap_or_default();
                let user = credential.strip_prefix("Bearer ").unwrap_or_default().to_owned();
                connection.read = Vec::new();
                return self.upgrade(key, if user == "bench" { String::new() } else { user });
            }
            let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if connection.read.len() < end + 4 + length {
                return;
            }
            let rest = connection.read.split_off(end + 4 + length);
            let body = std::mem::replace(&mut connection.read, rest).split_off(end + 4);
            let offset = self.publish(&body);
            let answer = format!(
                r#"{{"event_id":"01900000-0000-7000-8000-000000000000","timestamp":"2026-01-01T00:00:00.000Z","offset":{offset}}}"#
            );
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
                answer.len()
            );
            self.push(key, &answer.into_bytes().into());
        }
    }

    fn upgrade(&mut self, key: usize, user: String) {
        let (offset, sockets) =
            if user.is_empty() { &mut self.app } else { self.by_user.entry(user.clone()).or_default() };
        sockets.push(key);
        let welcome = format!(r#"{{"type":"welcome","offset":{offset},"broadcast_offset":{}}}"#, self.broadcasts);
        if let Some(connection) = &mut self.connections[key] {
            connection.user = Some(user);
        }
        let accept = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        self.push(key, &accept.as_bytes().into());
        self.push(key, &text_frame(welcome.as_bytes()));
    }

    fn publish(&mut self, body: &[u8]) -> u64 {
        let part = |name: &str, end: &[u8]| {
            let begin = memchr::memmem::find(body, name.as_bytes())? + name.len();
            Some(&body[begin..begin + memchr::memmem::find(&body[begin..], end)?])
        };
        let data = part(r#""event_data":"#, b"}").unwrap_or_default();
        let data = String::from_utf8_lossy(data);
        let frame = |stream: &str, offset: u64| {
            text_frame(
                format!(r#"{{"type":"event","event_data":{data}}},"stream":"{stream}","offset":{offset}}}"#).as_bytes(),
            )
        };
        self.app.0 += 1;
        let offset = self.app.0;
        if !self.app.1.is_empty() {
            let bytes = frame("app", offset);
            for key in self.app.1.clone() {
                self.push(key, &bytes);
            }
        }
        match part(r#""user_id":""#, b"\"") {
            Some(user) => {
                let user = String::from_utf8_lossy(user);
                let Some((last, sockets)) = self.by_user.get_mut(&*user) else { return offset };
                *last += 1;
                let bytes = frame("user", *last);
                for key in sockets.clone() {
                    self.push(key, &bytes);
                }
            }
            None => {
                self.broadcasts += 1;
                let bytes = frame("broadcast", self.broadcasts);
                let all: Vec<usize> = self.by_user.values().flat_map(|(_, sockets)| sockets.iter().copied()).collect();
                for key in all {
                    self.push(key, &bytes);
                }
            }
        }
        offset
    }

    fn push(&mut self, key: usize, bytes: &Arc<[u8]>) {
        let Some(connection) = &mut self.connections[key] else { return };
        connection.backlog += bytes.len();
        connection.waiting.push_back(bytes.clone());
        if !std::mem::replace(&mut connection.is_dirty, true) {
            self.dirty.push(key);
        }
    }

    fn write(&mut self, key: usize) {
        let Some(connection) = &mut self.connections[key] else { return };
        connection.is_dirty = false;
        while !connection.waiting.is_empty() {
            let mut slices = Vec::with_capacity(SLICES.min(connection.waiting.len()));
            slices.push(IoSlice::new(&connection.waiting[0][connection.written..]));
            slices.extend(connection.waiting.iter().skip(1).take(SLICES - 1).map(|bytes| IoSlice::new(bytes)));
            match connection.stream.write_vectored(&slices) {
                Ok(mut count) => {
                    connection.backlog -= count;
                    count += connection.written;
                    while connection.waiting.front().is_some_and(|first| count >= first.len()) {
                        count -= connection.waiting.pop_front().map_or(0, |first| first.len());
                    }
                    connection.written = count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && connection.backlog < BACKLOG => return,
                Err(_) => return self.end(key),
            }
        }
    }
}

fn text_frame(text: &[u8]) -> Arc<[u8]> {
    let mut frame = vec![0x81];
    match text.len() {
        short @ 0..=125 => frame.push(u8::try_from(short).unwrap_or(0)),
        length => {
            frame.push(126);
            frame.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    frame.extend_from_slice(text);
    frame.into()
}
