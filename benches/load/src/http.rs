//! HTTP/1.1 over one kept connection, as lean as can be: what measures must cost less than what is measured. Requests are
//! prepared bytes; answers have a `Content-Length`, as the hub's and the floor's have.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::Failure;

/// A connection for one request after the other.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer. The body stays in the connection's buffer until the next request.
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// The body as JSON, where the status is a success.
    pub fn json(&self) -> Result<Value, Failure> {
        if !(200..300).contains(&self.status) {
            return Err(Failure::Refused(self.status, String::from_utf8_lossy(self.body).into_owned()));
        }
        serde_json::from_slice(self.body).map_err(|error| Failure::Answer(error.to_string()))
    }
}

/// A request with a JSON body, ready to be sent as often as wanted.
pub fn request(method: &str, path: &str, host: &str, credential: &str, body: Option<&Value>) -> Vec<u8> {
    let body = body.map(Value::to_string).unwrap_or_default();
    request_with(method, path, host, credential, &body)
}

pub fn request_with(method: &str, path: &str, host: &str, credential: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {credential}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl Connection {
    pub async fn open(addr: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    pub async fn send(&mut self, request: &[u8]) -> Result<Answer<'_>, Failure> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(Failure::Closed);
            }
            let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") else { continue };
            let head = &self.buffer[..end];
            let status = status_of(head).ok_or_else(|| Failure::Answer("no status line".to_owned()))?;
            let begin = end + 4;
            let length = content_length(head).unwrap_or(0);
            while self.buffer.len() < begin + length {
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Err(Failure::Closed);
                }
            }
            return Ok(Answer { status, body: &self.buffer[begin..begin + length] });
        }
    }
}

fn status_of(head: &[u8]) -> Option<u16> {
    std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

fn content_length(head: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(head).ok()?;
    let line = text.lines().find(|line| line.len() > 15 && line[..15].eq_ignore_ascii_case("content-length:"))?;
    line[15..].trim().parse().ok()
}
