//! `watch`: a small client of the stream. It reconnects with jittered backoff and resumes after the last event.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use oriva_hub_actors::{
    model::EventPattern,
    protocol::{AfterClose, Close},
};
use serde_json::{Value, json};
use tokio_tungstenite::{
    connect_async_with_config,
    tungstenite::{self, Message, client::IntoClientRequest as _, http::HeaderValue},
};

use super::{CliError, pauses, print_error, say};

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// URL of the hub
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// An app's API key or a user's token
    #[arg(long, env = "ORIVA_HUB_TOKEN", hide_env_values = true)]
    token: String,
    /// Start after this offset instead of now
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    /// Patterns to subscribe to: notification.*, session.started, ** for everything
    #[arg(required = true, value_parser = |text: &str| EventPattern::parse(text), value_name = "PATTERN")]
    patterns: Vec<EventPattern>,
}

/// The watcher's positions in its streams.
#[derive(Debug, Default)]
struct Position {
    /// The epoch that the offsets belong to.
    epoch: Option<String>,
    /// The epoch in this connection's `welcome`. The offsets belong to it after the first `subscribed`.
    welcomed: Option<String>,
    after: Option<u64>,
    after_broadcast: Option<u64>,
}

/// How one connection ended.
enum End {
    /// Reconnect.
    Lost(String),
    /// Reconnect, but slowly: all connections are taken.
    Busy(String),
    /// Do not reconnect: something must change first.
    Refused(String),
}

/// Watches until the hub refuses the connection.
pub(super) async fn run(args: WatchArgs) -> Result<(), CliError> {
    let request = request(&args)?;
    let mut position = Position { after: args.after, ..Position::default() };
    // For too many connections (contract §5).
    let slow_pauses = || {
        let (first, last) = (Duration::from_secs(15), Duration::from_secs(300));
        ExponentialBuilder::default().with_min_delay(first).with_max_delay(last).without_max_times().build()
    };
    let (mut backoff, mut slow_backoff) = (pauses(), slow_pauses());
    loop {
        let (end, was_open) = watch_once(&args, request.clone(), &mut position).await;
        if was_open {
            (backoff, slow_backoff) = (pauses(), slow_pauses());
        }
        let (why, pause) = match end {
            End::Refused(why) => return Err(CliError::Failed(why)),
            End::Lost(why) => (why, backoff.next().unwrap_or(Duration::from_secs(20))),
            End::Busy(why) => (why, slow_backoff.next().unwrap_or(Duration::from_secs(300))),
        };
        print_error(format_args!("{why}; trying again in {:.1} s", pause.as_secs_f64()));
        tokio::time::sleep(pause).await;
    }
}

fn request(args: &WatchArgs) -> Result<tungstenite::handshake::client::Request, CliError> {
    let base = args.url.trim_end_matches('/');
    let base = match base.split_once("://") {
        Some(("http", rest)) => format!("ws://{rest}"),
        Some(("https", rest)) => format!("wss://{rest}"),
        Some(("ws" | "wss", _)) => base.to_owned(),
        _ => return Err(CliError::Usage(format!("--url {base:?} must begin with http:// or https://"))),
    };
    let bad = |error: &dyn std::fmt::Display| CliError::Usage(format!("--url: {error}"));
    let mut request = format!("{base}/api/v1/events/stream").into_client_request().map_err(|error| bad(&error))?;
    // In a subprotocol and not in the URL, because proxies log URLs.
    let protocols = HeaderValue::from_str(&format!("oriva.v1, bearer.{}", args.token))
        .map_err(|_| CliError::Usage("--token holds characters that no token has".to_owned()))?;
    request.headers_mut().insert("sec-websocket-protocol", protocols);
    Ok(request)
}

async fn watch_once(
    args: &WatchArgs,
    request: tungstenite::handshake::client::Request,
    position: &mut Position,
) -> (End, bool) {
    let mut socket = match connect_async_with_config(request, None, true).await {
        Ok((socket, _)) => socket,
        Err(tungstenite::Error::Http(response)) if response.status().is_client_error() => {
            let problem = response.body().as_deref().and_then(|body| serde_json::from_slice::<Value>(body).ok());
            let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
            let why = detail.map_or(String::new(), |detail| format!(": {detail}"));
            return (End::Refused(format!("refused with HTTP {}{why}", response.status())), false);
        }
        Err(error) => return (End::Lost(error.to_string()), false),
    };
    let mut patience = Duration::from_secs(90);
    let mut was_open = false;
    loop {
        let message = match tokio::time::timeout(patience, socket.next()).await {
            Err(_) => return (End::Lost("no sign of life".to_owned()), was_open),
            Ok(None) => return (End::Lost("connection ended".to_owned()), was_open),
            Ok(Some(Err(error))) => return (End::Lost(error.to_string()), was_open),
            Ok(Some(Ok(message))) => message,
        };
        match message {
            Message::Text(text) => {
                if let Err(error) = say(&text) {
                    return (End::Refused(error.to_string()), was_open);
                }
                let Ok(frame) = serde_json::from_str::<Value>(&text) else { continue };
                if frame["type"] == "welcome" {
                    was_open = true;
                    patience = Duration::from_secs(frame["heartbeat_interval"].as_u64().unwrap_or(30) * 2 + 10);
                    let subscribe = subscribe(args, &frame, position);
                    if let Err(error) = socket.send(Message::text(subscribe.to_string())).await {
                        return (End::Lost(error.to_string()), was_open);
                    }
                } else {
                    note(&frame, position);
                }
            }
            Message::Close(reason) => {
                let (code, text) =
                    reason.map_or((1005, String::new()), |reason| (reason.code.into(), reason.reason.to_string()));
                let why = format!("closed with {code} {text}");
                let end = match Close::after_code(code) {
                    AfterClose::Reconnect => End::Lost(why),
                    AfterClose::ReconnectSlowly => End::Busy(why),
                    // `watch` cannot renew a token.
                    AfterClose::RefreshAndReconnect | AfterClose::Stop => End::Refused(why),
                };
                return (end, was_open);
            }
            _ => {}
        }
    }
}

/// The `subscribe` after a `welcome`: everything since the last connection, or from now on.
fn subscribe(args: &WatchArgs, welcome: &Value, position: &mut Position) -> Value {
    let patterns: Vec<_> = args.patterns.iter().map(EventPattern::as_str).collect();
    let mut frame = json!({"action": "subscribe", "event_types": patterns});
    let is_user = !welcome["user_id"].is_null();
    if let Some(after) = position.after {
        frame["after"] = json!(after);
    }
    if let (true, Some(after)) = (is_user, position.after_broadcast) {
        frame["after_broadcast"] = json!(after);
    }
    if let Some(epoch) = &position.epoch {
        frame["epoch"] = json!(epoch);
    }
    position.welcomed = welcome["epoch"].as_str().map(str::to_owned);
    if position.epoch.is_none() {
        position.epoch = position.welcomed.clone();
    }
    position.after = position.after.or(welcome["offset"].as_u64());
    position.after_broadcast = position.after_broadcast.or(welcome["broadcast_offset"].as_u64());
    frame
}

fn note(frame: &Value, position: &mut Position) {
    let offset = frame["offset"].as_u64();
    match (frame["type"].as_str(), frame["stream"].as_str()) {
        (Some("event"), Some("broadcast")) => position.after_broadcast = offset,
        (Some("event"), Some(_)) => position.after = offset,
        (Some("resumed"), _) => {
            position.epoch = position.welcomed.clone();
            position.after = offset;
            position.after_broadcast = frame["broadcast_offset"].as_u64();
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_one_store_are_never_taken_for_those_of_another() {
        let args = WatchArgs {
            url: String::new(),
            token: String::new(),
            after: None,
            patterns: vec![EventPattern::parse("**").unwrap()],
        };
        let welcome = |epoch: &str| json!({"user_id": "alice", "epoch": epoch, "offset": 2, "broadcast_offset": 1});
        let mut position = Position::default();
        assert_eq!(
            subscribe(&args, &welcome("first"), &mut position),
            json!({"action": "subscribe", "event_types": ["**"]})
        );
        note(&json!({"type": "event", "stream": "user", "offset": 7}), &mut position);

        // Put back from a backup; and the connection was lost again before it said so.
        for _ in 0..2 {
            let frame = subscribe(&args, &welcome("second"), &mut position);
            assert_eq!(
                frame,
                json!({"action": "subscribe", "event_types": ["**"], "after": 7, "after_broadcast": 1, "epoch": "first"})
            );
        }
        note(&json!({"type": "resumed", "offset": 2, "broadcast_offset": 1, "recovered": false}), &mut position);
        let frame = subscribe(&args, &welcome("second"), &mut position);
        assert_eq!((&frame["after"], &frame["epoch"]), (&json!(2), &json!("second")));
    }
}
