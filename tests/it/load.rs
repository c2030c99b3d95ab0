//! Many sockets, and one that never reads.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use serde_json::json;

use crate::{
    harness::{App, Backend, Database, HubProcess, TestHub, eventually, process::create_app},
    on_both_stores,
};

on_both_stores!(a_socket_that_never_reads_is_dropped_and_others_are_served);

async fn a_socket_that_never_reads_is_dropped_and_others_are_served(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let token = app.token("alice").await;
    let mut healthy = app.connect("alice").await;
    healthy.subscribe(&["**"]).await;

    // Subscribes, then never reads again. Its receive buffer is the smallest, so that the kernel buffers little.
    let stuck = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    stuck.set_recv_buffer_size(4096).unwrap();
    stuck.connect(&hub.addr.into()).unwrap();
    let mut stuck: TcpStream = stuck.into();
    write!(
        stuck,
        "GET /api/v1/events/stream?token={token} HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .unwrap();
    let mut head = [0_u8; 12];
    stuck.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    stuck.write_all(&masked_text(r#"{"action":"subscribe","event_types":["**"]}"#)).unwrap();
    eventually("both are online", async || hub.hub.realtime().open_sockets() == 2).await;

    let mut event = App::event("alice", "large");
    event["event_data"] = json!({"x": "y".repeat(60_000)});
    let reader = tokio::spawn(async move {
        for expected in 1..=300 {
            assert_eq!(healthy.offset().await, expected);
        }
        healthy
    });
    for _ in 0..300 {
        assert_eq!(app.post(&event).await.status, 200);
    }
    let mut healthy = reader.await.unwrap();
    eventually("the stuck one is gone", async || hub.hub.realtime().open_sockets() == 1).await;
    assert!(healthy.is_quiet().await);
    let places = hub.hub.realtime().observe().await.connections;
    assert_eq!(places, 1, "its place is free");
}

/// A client's text frame, masked with zeros (RFC 6455 §5.3 asks for a mask, not for a good one).
fn masked_text(text: &str) -> Vec<u8> {
    assert!(text.len() < 126);
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// The hub is in another process than the clients, so that each has its own limit of open files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_sockets_are_held_and_served() {
    const SOCKETS: usize = 10_000;
    let files = rlimit::increase_nofile_limit(64_000).unwrap();
    assert!(files > 11_000, "this test needs 11000 open files; ulimit -n allows {files}");
    let database = Database::new(Backend::Sqlite).await;
    let hub = HubProcess::start(&database, &[]).await;
    let app = create_app(&database, hub.addr, "a", false);
    let before = hub.rss_kib();
    let mut tokens = Vec::new();
    for user in 0..SOCKETS / 10 {
        tokens.push(app.token(&format!("user-{user}")).await);
    }
    let mut sockets = Vec::with_capacity(SOCKETS);
    for n in 0..SOCKETS {
        sockets.push(crate::harness::Socket::open(hub.addr, &tokens[n / 10]).await.unwrap());
    }
    let per_socket = (hub.rss_kib() - before) as f64 / SOCKETS as f64;
    println!("idle memory: {per_socket:.2} KiB a socket (resident, ten a user), {SOCKETS} sockets");
    for n in [0, 1, SOCKETS / 2, SOCKETS - 1] {
        let user = format!("user-{}", n / 10);
        sockets[n].subscribe(&["**"]).await;
        let offset = app.publish(&user, n).await;
        assert!(offset > 0);
        assert_eq!(sockets[n].frame().await["entity_id"], n.to_string());
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
}
