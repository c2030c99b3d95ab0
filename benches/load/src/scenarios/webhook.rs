//! Events to a local endpoint of the tool's own: from when an event was due until it arrives. The hub must allow it
//! (`webhooks.allow_http`).

use std::{net::SocketAddr, sync::Arc};

use memchr::memmem::Finder;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    Failure,
    http::{Connection, request},
    measure::Counters,
    publish::{Publishers, Publishing},
    report::Report,
    run::Run,
};

const USERS: usize = 1000;

pub async fn run(mut run: Run<'_>) -> Result<Report, Failure> {
    let endpoint = listen(&run.counters).await?;
    let mut connection = Connection::open(run.target.addr(0)).await?;
    let body = json!({"webhook_url": format!("http://{endpoint}/"), "subscribed_events": ["**"]});
    let path = run.target.path("/webhooks");
    connection.send(&request("POST", &path, &run.target.host, &run.target.key, Some(&body))).await?.json()?;
    let args = run.args;
    let publishing = Publishing { publishers: args.publishers, rate: args.rate, users: USERS, payload: args.payload };
    let publishers = Publishers::start(&run.target, publishing, &run.counters);
    let mark = run.warm_up().await;
    run.measure().await;
    publishers.stop().await?;
    let (published, arrived) = (run.counters.count_requests(), run.counters.count_delivered());
    run.figure("published and not arrived at the end", published.saturating_sub(arrived) as f64, "");
    Ok(run.report(mark))
}

/// An endpoint that answers 200 and takes the time.
async fn listen(counters: &Arc<Counters>) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let counters = counters.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counters = counters.clone();
            tokio::spawn(async move { drop(receive(stream, &counters).await) });
        }
    });
    Ok(addr)
}

async fn receive(mut stream: TcpStream, counters: &Counters) -> Result<(), Failure> {
    let due = Finder::new(br#""due":"#);
    let mut seen = Vec::with_capacity(4096);
    loop {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&seen, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut seen).await? == 0 {
                counters.settle();
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let whole_number = end + length.unwrap_or(0);
        while seen.len() < whole_number {
            if stream.read_buf(&mut seen).await? == 0 {
                return Ok(());
            }
        }
        let latency = due.find(&seen[end..whole_number]).map(|at| {
            let digits = seen[end + at + 6..whole_number].iter().take_while(|byte| byte.is_ascii_digit());
            counters.now_us().saturating_sub(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
        });
        counters.delivered(latency);
        seen.drain(..whole_number);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
    }
}
