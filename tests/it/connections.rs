//! HTTP connections whose clients do not do their part: they do not read, do not finish a head, or send more behind the
//! last request (RFC 9112).

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{
    harness::{App, Backend, TestHub, callers::send, eventually},
    on_both_stores,
};

on_both_stores!(
    a_request_that_asks_for_another_upgrade_is_told_that_the_connection_ends,
    what_comes_behind_the_last_request_is_not_worked_on,
    a_list_is_bounded_in_bytes_and_goes_on_from_there,
);

fn post(app: &App, entity: &str, headers: &str) -> String {
    let body = App::event("alice", entity).to_string();
    format!(
        "POST /api/v1/apps/{}/events HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        app.id,
        app.key,
        body.len()
    )
}

/// What comes until the hub ends the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut bytes)).await.expect("it ends").unwrap();
    String::from_utf8(bytes).unwrap().to_ascii_lowercase()
}

/// As Java's `HttpClient` asks by default, curl with `--http2`, and a proxy with a fixed `Connection: upgrade`.
async fn a_request_that_asks_for_another_upgrade_is_told_that_the_connection_ends(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    for (n, headers) in [
        "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
        "connection: upgrade\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = TcpStream::connect(hub.addr).await.unwrap();
        stream.write_all(post(&app, &n.to_string(), headers).as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    assert_eq!(app.events("").await.body["total"], 2);
}

async fn what_comes_behind_the_last_request_is_not_worked_on(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let mut stream = TcpStream::connect(hub.addr).await.unwrap();
    let requests = [post(&app, "1", ""), post(&app, "2", "connection: close\r\n"), post(&app, "3", "")];
    stream.write_all(requests.concat().as_bytes()).await.unwrap();
    let answers = rest(&mut stream).await;
    assert_eq!(answers.matches("http/1.1 200").count(), 2, "{answers}");
    let events = app.events("").await.body;
    let stored: Vec<_> = events["events"].as_array().unwrap().iter().map(|event| &event["entity_id"]).collect();
    assert_eq!(stored, [&json!("2"), &json!("1")], "the client may send the third elsewhere");
}

async fn publish_large(app: &App, count: usize) {
    for n in 0..count {
        let mut event = App::event("alice", n);
        event["event_data"] = json!({"pad": "x".repeat(60_000)});
        assert_eq!(app.post(&event).await.status, 200);
    }
}

async fn a_list_is_bounded_in_bytes_and_goes_on_from_there(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    publish_large(&app, 100).await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = app.events(&format!("?limit=500{cursor}")).await.body;
        let events = page["events"].as_array().unwrap();
        assert!((1..=70).contains(&events.len()), "{}", events.len());
        seen.extend(events.iter().map(|event| event["offset"].as_u64().unwrap()));
        assert_eq!((&page["total"], &page["limit"]), (&json!(100), &json!(500)));
        let Value::String(next) = &page["next_cursor"] else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, (1..=100).rev().collect::<Vec<_>>());
}

/// The second head of a connection has a limit as the first.
#[tokio::test]
async fn a_head_that_never_ends_ends_its_connection() {
    let hub = TestHub::start(Backend::Sqlite).await;
    let mut stream = TcpStream::connect(hub.addr).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: hub\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    stream.write_all(b"G").await.unwrap();
    rest(&mut stream).await;
}

async fn pending(hub: SocketAddr) -> f64 {
    let text = reqwest::get(format!("http://{hub}/metrics")).await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with("oriva_http_pending_answer_bytes ")).unwrap().to_owned();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Clients that ask for much and read nothing: their answers are bounded together, and end with their connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_bounded_and_given_up() {
    const BOUND: usize = 16 << 20;
    let hub = TestHub::start_with(Backend::Sqlite, |config| config.server.max_pending_answer_bytes = BOUND).await;
    let app = hub.app("a").await;
    publish_large(&app, 80).await;
    let request = format!(
        "GET /api/v1/apps/a/events?limit=500 HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\n\r\n",
        app.key
    );
    let mut silent = Vec::new();
    for _ in 0..40 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(hub.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        silent.push(stream);
        // One after the other: what is asked at once passes the bound together.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let held = pending(hub.addr).await;
    // An answer that was begun below the bound is completed: one for each thread more.
    assert!(held > BOUND as f64 / 2.0 && held < BOUND as f64 + 3.0 * 5e6, "{held} bytes");
    let refused = app.events("").await;
    assert_eq!((refused.status, refused.code()), (503, "overloaded"));
    assert_eq!(app.post(&App::event("alice", "while they wait")).await.status, 200, "writing goes on");
    assert_eq!(send(hub.addr, "GET", "/healthz", None, &[], None).await.status, 200);
    tokio::time::sleep(Duration::from_secs(10)).await;
    eventually("their connections are given up, and their answers with them", async || pending(hub.addr).await == 0.0)
        .await;
    assert_eq!(app.events("?limit=1").await.status, 200);
}

/// A client whose requests are refused keeps its connection, as long as it sends what it said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_request_does_not_cost_its_connection() {
    let hub = TestHub::start(Backend::Sqlite).await;
    let mut stream = TcpStream::connect(hub.addr).await.unwrap();
    let head = |length: usize| {
        format!(
            "POST /api/v1/apps/a/events HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    };
    for length in [2, 1000, 60_000] {
        // In two parts: the answer does not wait for what is said to come.
        stream.write_all(head(length).as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(&vec![b' '; length]).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{length}");
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 401") && !answer.contains("connection: close"), "{answer}");
    }
    // One that sends nothing of it is answered all the same, and its connection ends.
    stream.write_all(head(10).as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("http/1.1 401"), "{answer}");
}
