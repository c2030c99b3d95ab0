//! A webhook endpoint of the tool's own. One in ten requests is answered 503, so that deliveries are tried again.

use std::{net::SocketAddr, sync::Arc};

use hmac::{Hmac, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::book::Book;
use crate::Failure;

/// The largest request that is taken.
const LARGEST: usize = 1 << 20;

/// Listens, and writes into the book what arrives. Returns the address.
pub async fn listen(bind: SocketAddr, book: Arc<Book>, secret: watch::Receiver<String>) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind(bind).await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (book, secret) = (book.clone(), secret.clone());
            tokio::spawn(async move { drop(serve(stream, &book, &secret).await) });
        }
    });
    Ok(addr)
}

/// Whether a request's `X-Oriva-Signature` is that of its body.
fn is_signed(head: &str, body: &[u8], secret: &str) -> bool {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return false };
    mac.update(body);
    let code = mac.finalize().into_bytes();
    let signature = code.iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"));
    head.lines().filter_map(|line| line.strip_prefix("x-oriva-signature:")).any(|sent| sent.trim() == signature)
}

async fn serve(mut stream: TcpStream, book: &Book, secret: &watch::Receiver<String>) -> std::io::Result<()> {
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
        let body = &seen[end..end + length];
        if !is_signed(&head, body, &secret.borrow()) {
            book.fault("signature", head.clone());
        }
        let is_refused = rand::random_range(0..10) == 0;
        if !is_refused
            && let Ok(body) = serde_json::from_slice::<Value>(body)
            && let Some(event) = super::entry(&body)
        {
            book.arrive(&event);
        }
        seen.drain(..end + length);
        let status = if is_refused { "503 Service Unavailable" } else { "200 OK" };
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
    }
}
