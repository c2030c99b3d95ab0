//! A user's device: a socket that goes and comes back, by itself or because it must, and resumes where it was.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};

use super::{book::Book, desk::Desk};

/// The pause before it comes back.
const PAUSE: Duration = Duration::from_millis(700);
/// A socket that says nothing for longer is dead: the hub pings every 30 s.
const SILENCE: Duration = Duration::from_secs(75);

pub struct Reader {
    desk: Arc<Desk>,
    book: Arc<Book>,
    user: usize,
    device: usize,
    stay: Duration,
    position: Option<(u64, String)>,
    /// Since when it has not been up to date.
    away_since: Option<Instant>,
}

/// Why a connection ended.
enum End {
    /// It went by itself.
    Left,
    /// It was lost or closed.
    Lost,
    Stopped,
}

/// Completes when the run is over.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

impl Reader {
    pub fn new(desk: Arc<Desk>, book: Arc<Book>, user: usize, device: usize, stay: Duration) -> Self {
        Self { desk, book, user, device, stay, position: None, away_since: Some(Instant::now()) }
    }

    pub async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        // Spread, so that they do not all come and go together.
        tokio::time::sleep(PAUSE.mul_f64(rand::random::<f64>())).await;
        loop {
            let end = self.once(&mut stopped).await;
            if matches!(end, Ok(End::Stopped)) {
                return;
            }
            if !matches!(end, Ok(End::Left)) {
                self.away_since.get_or_insert_with(Instant::now);
            }
            self.book.reconnects.fetch_add(1, Relaxed);
            tokio::select! {
                () = tokio::time::sleep(PAUSE.mul_f64(0.5 + rand::random::<f64>())) => {}
                () = told(&mut stopped) => return,
            }
        }
    }

    async fn once(&mut self, stopped: &mut watch::Receiver<bool>) -> Result<End, tungstenite::Error> {
        let mut url = self.desk.url().clone();
        let _ = url.set_scheme(if url.scheme() == "https" { "wss" } else { "ws" });
        let url = format!("{}/api/v1/events/stream", url.as_str().trim_end_matches('/'));
        let mut request = url.into_client_request()?;
        let protocols = format!("oriva.v1, bearer.{}", self.desk.token(self.user));
        if let Ok(value) = protocols.parse() {
            request.headers_mut().insert("sec-websocket-protocol", value);
        }
        let (mut socket, _) = connect_async(request).await?;
        let leave_at = tokio::time::Instant::now() + self.stay.mul_f64(0.2 + 1.6 * rand::random::<f64>());
        let mut epoch = String::new();
        loop {
            let message = tokio::select! {
                message = tokio::time::timeout(SILENCE, socket.next()) => message,
                () = tokio::time::sleep_until(leave_at) => {
                    // Half of them say so, half are cut.
                    if rand::random() {
                        let _ = socket.close(None).await;
                    }
                    return Ok(End::Left);
                }
                () = told(stopped) => return Ok(End::Stopped),
            };
            let text = match message {
                Ok(Some(Ok(Message::Text(text)))) => text,
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => return Ok(End::Lost),
                Ok(Some(Ok(_))) => continue,
            };
            let Ok(frame) = serde_json::from_str::<Value>(&text) else { continue };
            match frame["type"].as_str() {
                Some("welcome") => {
                    frame["epoch"].as_str().unwrap_or_default().clone_into(&mut epoch);
                    let mut subscribe = json!({"action": "subscribe", "event_types": ["**"]});
                    // From the beginning where it has not been there before: nothing is before it.
                    let (after, of) = self.position.clone().unwrap_or((0, epoch.clone()));
                    subscribe["after"] = after.into();
                    subscribe["epoch"] = of.into();
                    socket.send(Message::text(subscribe.to_string())).await?;
                }
                Some("resumed") => self.resumed(&frame, &epoch),
                Some("event") => self.event(&frame, &epoch),
                _ => {}
            }
        }
    }

    fn resumed(&mut self, frame: &Value, epoch: &str) {
        if frame["recovered"] == false {
            self.book.reloads.fetch_add(1, Relaxed);
            if self.position.as_ref().is_some_and(|(_, of)| of != epoch) {
                self.book.forget_offsets(self.user);
            }
            self.position = Some((frame["offset"].as_u64().unwrap_or(0), epoch.to_owned()));
        }
        if let Some(since) = self.away_since.take() {
            self.book.socket_was_away(since.elapsed());
        }
    }

    fn event(&mut self, frame: &Value, epoch: &str) {
        if frame["stream"] == "broadcast" {
            return;
        }
        let offset = frame["offset"].as_u64().unwrap_or(0);
        let Some(id) = super::entry(frame) else { return };
        let last = self.position.as_ref().map_or(0, |(last, _)| *last);
        let socket = format!("user {}, device {}", self.user, self.device);
        if offset > last + 1 {
            self.book.fault("gap", format!("{socket}: {offset} after {last}"));
        } else if offset <= last {
            self.book.fault("repeated", format!("{socket}: {offset} after {last}"));
            return;
        }
        self.book.see(self.user, offset, &id);
        self.position = Some((offset, epoch.to_owned()));
    }
}
