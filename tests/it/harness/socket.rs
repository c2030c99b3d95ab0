//! A client of the stream, built on another library than the hub.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};

/// Why no socket was opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Rejected before the upgrade: HTTP status and problem code.
    Http(u16, String),
    /// After it.
    Closed(u16, String),
    /// Nobody answered.
    Unreachable(String),
}

pub struct Socket {
    pub inner: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub welcome: Value,
    pub protocol: Option<String>,
}

const TIMEOUT: Duration = Duration::from_secs(30);

impl Socket {
    /// Opens with the credential in `Authorization`.
    pub async fn open(addr: SocketAddr, credential: &str) -> Result<Self, Refused> {
        Self::open_with(addr, "", &[("authorization", &format!("Bearer {credential}"))]).await
    }

    /// Opens the way a browser does, with the credential in a subprotocol.
    pub async fn open_v1(addr: SocketAddr, credential: &str) -> Result<Self, Refused> {
        Self::open_with(addr, "", &[("sec-websocket-protocol", &format!("oriva.v1, bearer.{credential}"))]).await
    }

    pub async fn open_with(addr: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Result<Self, Refused> {
        let mut request =
            format!("ws://{addr}/api/v1/events/stream{query}").into_client_request().expect("a good address");
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().expect("a name");
            request.headers_mut().insert(name, value.parse().expect("a value"));
        }
        let (inner, response) = match connect_async(request).await {
            Ok(opened) => opened,
            Err(tungstenite::Error::Http(response)) => {
                let body: Value =
                    response.body().as_deref().and_then(|b| serde_json::from_slice(b).ok()).unwrap_or_default();
                let code = body["code"].as_str().unwrap_or("").to_owned();
                return Err(Refused::Http(response.status().as_u16(), code));
            }
            Err(error) => return Err(Refused::Unreachable(error.to_string())),
        };
        let protocol = response.headers().get("sec-websocket-protocol").map(|p| p.to_str().expect("text").to_owned());
        let mut socket = Self { inner, welcome: Value::Null, protocol };
        match socket.next().await {
            Ok(welcome) => {
                assert_eq!(welcome["type"], "welcome", "{welcome}");
                socket.welcome = welcome;
                Ok(socket)
            }
            Err((code, reason)) => Err(Refused::Closed(code, reason)),
        }
    }

    /// The next frame, or the close code and reason (1006 if there was no close frame).
    pub async fn next(&mut self) -> Result<Value, (u16, String)> {
        loop {
            let message = tokio::time::timeout(TIMEOUT, self.inner.next()).await.expect("a frame in time");
            match message {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Close(Some(reason)))) => return Err((reason.code.into(), reason.reason.to_string())),
                Some(Ok(Message::Close(None))) | None | Some(Err(_)) => return Err((1006, String::new())),
                Some(Ok(_)) => {}
            }
        }
    }

    /// The next frame, which must come.
    pub async fn frame(&mut self) -> Value {
        self.next().await.expect("a frame and not a close")
    }

    /// Skips events until the socket is closed, which must happen.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Err(closed) = self.next().await {
                return closed;
            }
        }
    }

    /// Takes the next frame, which must be an event. Returns its offset.
    pub async fn offset(&mut self) -> u64 {
        let frame = self.frame().await;
        assert_eq!(frame["type"], "event", "{frame}");
        frame["offset"].as_u64().expect("an offset")
    }

    pub async fn send(&mut self, frame: Value) {
        self.inner.send(Message::text(frame.to_string())).await.expect("sent");
    }

    /// Sends a frame. Returns false if that failed.
    pub async fn try_send(&mut self, frame: Value) -> bool {
        self.inner.send(Message::text(frame.to_string())).await.is_ok()
    }

    /// Sends a frame and returns the answer.
    pub async fn ask(&mut self, frame: Value) -> Value {
        self.send(frame).await;
        self.frame().await
    }

    pub async fn subscribe(&mut self, patterns: &[&str]) {
        let answer = self.ask(json!({"action": "subscribe", "event_types": patterns})).await;
        assert_eq!(answer["type"], "subscribed", "{answer}");
    }

    /// Subscribes to everything after `after`. Returns the events replayed, and the `resumed` frame.
    pub async fn resume(&mut self, after: u64) -> (Vec<Value>, Value) {
        let answer = self.ask(json!({"action": "subscribe", "event_types": ["**"], "after": after})).await;
        assert_eq!(answer["type"], "subscribed", "{answer}");
        self.replayed().await
    }

    /// As [`Socket::resume`], with the epoch that `after` belongs to. Returns the `resumed` frame.
    pub async fn resume_in(&mut self, after: u64, epoch: &str) -> Value {
        let subscribe = json!({"action": "subscribe", "event_types": ["**"], "after": after, "epoch": epoch});
        let answer = self.ask(subscribe).await;
        assert_eq!(answer["type"], "subscribed", "{answer}");
        self.replayed().await.1
    }

    /// Events up to the `resumed` frame.
    pub async fn replayed(&mut self) -> (Vec<Value>, Value) {
        let mut events = Vec::new();
        loop {
            let frame = self.frame().await;
            match frame["type"].as_str() {
                Some("event") => events.push(frame),
                Some("resumed") => return (events, frame),
                _ => panic!("unexpected {frame}"),
            }
        }
    }

    /// Whether nothing is on its way: the answer to a `ping` is the next frame.
    pub async fn is_quiet(&mut self) -> bool {
        self.ask(json!({"action": "ping"})).await["type"] == "pong"
    }

    pub async fn close(mut self) {
        let _ = self.inner.close(None).await;
        while let Some(Ok(_)) = self.inner.next().await {}
    }
}

/// A socket whose client is there: it answers pings. Dropped, its connection ends.
pub struct Attended {
    reader: tokio::task::JoinHandle<()>,
    leave: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Attended {
    /// Closes as a client does.
    pub async fn close(mut self) {
        self.leave.take();
        let _ = (&mut self.reader).await;
    }

    /// Whether the hub has not closed it.
    pub fn is_open(&self) -> bool {
        !self.reader.is_finished()
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Socket {
    /// Reads from now on, whatever comes.
    pub fn attend(mut self) -> Attended {
        let (leave, mut left) = tokio::sync::oneshot::channel();
        let reader = tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = &mut left => return self.close().await,
                    message = self.inner.next() => match message {
                        Some(Ok(_)) => {}
                        _ => return,
                    },
                }
            }
        });
        Attended { reader, leave: Some(leave) }
    }
}
