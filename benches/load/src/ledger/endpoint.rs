//! A webhook endpoint of the tool's own. One in ten requests is answered 503, so that deliveries are tried again.

use std::{net::SocketAddr, sync::Arc};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::book::Book;
use crate::Failure;

/// The largest request that is taken.
const LARGEST: usize = 1 << 20;

pub struct Endpoint;

impl Endpoint {
    /// Listens, and writes into the book what arrives. Returns the address.
    pub async fn listen(bind: SocketAddr, book: Arc<Book>) -> Result<SocketAddr, Failure> {
        let listener = TcpListener::bind(bind).await?;
        let addr = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let book = book.clone();
                tokio::spawn(async move { drop(serve(stream, &book).await) });
            }
        });
        Ok(addr)
    }
}

async fn serve(mut stream: TcpStream, book: &Book) -> std::io::Result<()> {
    let mut seen = Vec::with_capacity(4096);
    loop {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&seen, b"\r\n\r\n") {
                break end + 4;
            }
            if seen.len() > LARGEST || stream.read_buf(&mut seen).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
        if length > LARGEST {
            return Ok(());
        }
        while seen.len() < end + length {
            if stream.read_buf(&mut seen).await? == 0 {
                return Ok(());
            }
        }
        let is_refused = rand::random_range(0..10) == 0;
        if !is_refused
            && let Ok(body) = serde_json::from_slice::<Value>(&seen[end..end + length])
            && let Some(event) = body["event_id"].as_str()
        {
            book.arrive(event);
        }
        seen.drain(..end + length);
        let status = if is_refused { "503 Service Unavailable" } else { "200 OK" };
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
    }
}
