//! Endpoints behind names and connections that do not do their part. One store: the network is the same for both.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, RecordType, rdata::A},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
};

use super::{PROCESS, start};
use crate::harness::{
    App, Backend, Database, HubProcess, Receiver, callers::read, eventually, process::create_app, receiver::tls_of,
};

/// A name server. It has addresses for `two.example` and `good.example`, and does not answer for any other name.
async fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
            let Some(asked) = query.queries.first().cloned() else { continue };
            let addresses: &[Ipv4Addr] = match asked.name().to_ascii().as_str() {
                "two.example." => &[Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::LOCALHOST],
                "good.example." => &[Ipv4Addr::LOCALHOST],
                _ => continue,
            };
            let mut answer = query.clone();
            answer.metadata.message_type = MessageType::Response;
            answer.metadata.response_code = ResponseCode::NoError;
            if asked.query_type() == RecordType::A {
                let record = |address: &Ipv4Addr| Record::from_rdata(asked.name().clone(), 60, RData::A(A(*address)));
                answer.answers = addresses.iter().map(record).collect();
            }
            let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
        }
    });
    addr
}

/// A hub process that resolves with that server, and a receiver over TLS that it trusts.
async fn behind_names() -> (HubProcess, App, Receiver, Database) {
    let database = Database::new(Backend::Sqlite).await;
    let (tls, certificate) = tls_of(&["two.example", "good.example"]);
    let authorities = database.folder.path().join("authorities.pem");
    std::fs::write(&authorities, certificate).unwrap();
    let receiver = Receiver::start_tls(tls).await;
    let server = name_server().await.to_string();
    let env = [
        ("ORIVA_HUB__WEBHOOKS__ALLOWED_NETWORKS", "127.0.0.0/8"),
        ("ORIVA_HUB__WEBHOOKS__NAME_SERVERS", &*server),
        ("SSL_CERT_FILE", authorities.to_str().unwrap()),
    ];
    let process = HubProcess::start(&database, &env).await;
    let app = create_app(&database, process.addr, "a", false);
    (process, app, receiver, database)
}

/// Takes no connection on 127.0.0.2 at this port: what is sent there is lost.
async fn black_hole(port: u16) -> impl Sized {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, 2), port).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(addr)).await {
        waiting.push(connected.unwrap());
    }
    (listener, waiting)
}

async fn attempts(app: &App, id: &Value) -> Vec<usize> {
    let deliveries = app.deliveries(id, "?status=succeeded&limit=100").await;
    deliveries.iter().map(|delivery| delivery["attempts"].as_array().unwrap().len()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_address_beside_a_good_one_costs_no_attempt() {
    let (_process, app, receiver, _database) = behind_names().await;
    let _hole = black_hole(receiver.addr.port()).await;
    let url = format!("https://two.example:{}/ok", receiver.addr.port());
    let id = app.webhook(&url, &["**"]).await["webhook_id"].clone();
    app.publish("alice", "x").await;
    receiver.wait_for("/ok", 1).await;
    eventually("it is written down", async || attempts(&app, &id).await == [1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_nobody_answers_for_delay_nobody_else() {
    let (process, app, receiver, database) = behind_names().await;
    let silent = create_app(&database, process.addr, "silent", false);
    let url = format!("https://good.example:{}/ok", receiver.addr.port());
    let id = app.webhook(&url, &["**"]).await["webhook_id"].clone();
    let mut hooks = Vec::new();
    for n in 0..100 {
        hooks.push(silent.webhook(&format!("https://silent{n}.example/"), &["**"]).await["webhook_id"].clone());
    }
    let events: Vec<_> = (0..10).map(|n| App::event("alice", n)).collect();
    assert_eq!(read(silent.request("POST", "/events/batch").json(&json!({"events": events}))).await.status, 200);
    for n in 0..200 {
        app.publish("alice", n).await;
    }
    receiver.wait_for("/ok", 200).await;
    eventually("each of the first page arrived at once", async || attempts(&app, &id).await == [1; 100]).await;
    eventually("the phase is named", async || {
        let failed = silent.deliveries(&hooks[0], "").await;
        let error = &failed[0]["attempts"][0]["error_message"];
        error.as_str().is_some_and(|error| error.contains("the name silent0.example was not resolved"))
    })
    .await;
}

/// What a receiver does with requests behind the first of a connection.
enum Later {
    /// It closes the connection and answers nothing.
    Close,
    /// It does not answer, while this is set.
    Freeze(Arc<AtomicBool>),
}

/// Answers the first request of each connection, and keeps the connection.
async fn keeper(later: Later) -> (String, Arc<std::sync::Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (later, answered) = (Arc::new(later), Arc::new(std::sync::Mutex::new(0)));
    let counter = answered.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (later, answered) = (later.clone(), counter.clone());
            tokio::spawn(async move {
                let mut is_first = true;
                loop {
                    let mut bytes = Vec::new();
                    // A whole request: its body is an object, and the last brace ends it.
                    while !bytes.ends_with(b"}}") {
                        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    match &*later {
                        Later::Close if !is_first => return,
                        Later::Freeze(frozen) if !is_first && frozen.load(Ordering::SeqCst) => {
                            return std::future::pending().await;
                        }
                        _ => is_first = false,
                    }
                    *answered.lock().unwrap() += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            });
        }
    });
    (url, answered)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_that_the_receiver_closes_costs_no_attempt() {
    let (_hub, app, _receiver) = start(Backend::Sqlite).await;
    let (url, _) = keeper(Later::Close).await;
    let id = app.webhook(&url, &["**"]).await["webhook_id"].clone();
    for n in 1..=10 {
        app.publish("alice", n).await;
        eventually("it arrived", async || attempts(&app, &id).await.len() == n).await;
    }
    assert_eq!(attempts(&app, &id).await, [1; 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_froze_cost_one_attempt_and_no_more() {
    let database = Database::new(Backend::Sqlite).await;
    let process = HubProcess::start(&database, &PROCESS).await;
    let app = create_app(&database, process.addr, "a", false);
    let frozen = Arc::new(AtomicBool::new(false));
    let (url, answered) = keeper(Later::Freeze(frozen.clone())).await;
    let id = app.webhook(&url, &["**"]).await["webhook_id"].clone();
    let events: Vec<_> = (0..40).map(|n| App::event("alice", n)).collect();
    assert_eq!(read(app.request("POST", "/events/batch").json(&json!({"events": events}))).await.status, 200);
    eventually("eight connections are kept", async || *answered.lock().unwrap() == 40).await;
    eventually("all is written down", async || attempts(&app, &id).await.len() == 40).await;
    frozen.store(true, Ordering::SeqCst);
    app.publish("alice", "x").await;
    eventually("a new connection serves it", async || attempts(&app, &id).await.len() == 41).await;
    assert_eq!(attempts(&app, &id).await[0], 2);
}

/// Interim answers without end: what is read of them is bounded, whatever the endpoint sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_interim_answers_ends_the_attempt() {
    let (_hub, app, _receiver) = start(Backend::Sqlite).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (sent, closed) = (Arc::new(std::sync::atomic::AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (counter, ended) = (sent.clone(), closed.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let hints = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100);
            while let Ok(count) = stream.write(&hints).await {
                counter.fetch_add(count, Ordering::SeqCst);
            }
            ended.store(true, Ordering::SeqCst);
        }
    });
    let body = json!({"webhook_url": url, "subscribed_events": ["**"], "max_retries": 1});
    let id = app.webhook_with(&body).await["webhook_id"].clone();
    app.publish("alice", "x").await;
    eventually("it is given up", async || app.deliveries(&id, "?status=failed").await.len() == 1).await;
    let delivery = app.deliveries(&id, "").await.remove(0);
    let error = delivery["attempts"][0]["error_message"].as_str().unwrap();
    assert!(error.contains("interim status"), "{error}");
    eventually("the connection is ended", async || closed.load(Ordering::SeqCst)).await;
    // Two attempts, and what the kernel held of each.
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent < 64 << 20, "{sent} bytes");
}
