//! `publish` and `notify`: an event or a notification from the shell, or many from standard input.

use std::{io::BufRead as _, time::Duration};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use oriva_hub_actors::model::AppId;
use reqwest::{Client, StatusCode, Url, header};
use serde_json::{Map, Value, json, value::RawValue};
use tokio::sync::mpsc;

use super::{CliError, chain, pauses, print_error, say};
use crate::hub::MAX_BATCH;

/// Bytes of a batch after which it takes no further line.
const BATCH_BYTES: usize = 512 * 1024;
/// Batches that are read ahead of the one that is sent.
const AHEAD: usize = 2;
/// How often a request is repeated that the hub could not take at the time.
const REPEATS: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(90);

#[derive(Debug, Args)]
struct TargetArgs {
    /// The app's id
    #[arg(long, env = "ORIVA_HUB_APP", value_parser = |text: &str| AppId::parse(text))]
    app: AppId,
    /// The app's API key
    #[arg(long, env = "ORIVA_HUB_TOKEN", hide_env_values = true)]
    token: String,
    /// URL of the hub
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Does it once, however often it is run: a repeat under the same key gets the first answer
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without fields, events are read from standard input: JSON, one a line, with the fields of POST /events."
)]
pub(super) struct PublishArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// The user whom it is for
    #[arg(long, conflicts_with = "broadcast")]
    user: Option<String>,
    /// For all users in the app's scope
    #[arg(long)]
    broadcast: bool,
    /// Category and type, such as session.started
    #[arg(long = "type", value_name = "CATEGORY.TYPE")]
    full_type: Option<String>,
    /// What it is about, such as session:s-1
    #[arg(long, value_name = "TYPE:ID")]
    entity: Option<String>,
    /// Its data, a JSON object
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without fields, notifications are read from standard input: JSON, one a line, with the fields of POST /notifications. They go in batches, the last when the input ends."
)]
pub(super) struct NotifyArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// The user whom it is for
    #[arg(long)]
    user: Option<String>,
    /// Its title
    #[arg(long)]
    title: Option<String>,
    /// Its text
    #[arg(long)]
    body: Option<String>,
    /// low, normal, high or urgent
    #[arg(long)]
    priority: Option<String>,
    /// A type of the app's own, such as order
    #[arg(long = "type", value_name = "TYPE")]
    notification_type: Option<String>,
    /// Where a click leads
    #[arg(long, value_name = "URL")]
    action_url: Option<String>,
    /// The app's own id for it, unique within the app
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
    /// When it ends, such as 2026-12-01T12:00:00Z
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Data for the app's own use, a JSON object
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
}

/// What is sent, in the words of its routes.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// The route, and the list in a batch and in its answer.
    plural: &'static str,
    /// The field of an answer that names what was made.
    id: &'static str,
}

const EVENTS: Kind = Kind { plural: "events", id: "event_id" };
const NOTIFICATIONS: Kind = Kind { plural: "notifications", id: "notification_id" };

/// Publishes an event, or many.
///
/// # Errors
/// The arguments are wrong, or the hub refuses some of it.
pub(super) async fn publish(args: PublishArgs, as_json: bool) -> Result<(), CliError> {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value.into());
        }
    };
    set("user_id", args.user);
    set("audience", args.broadcast.then(|| "all".to_owned()));
    if let Some(full_type) = args.full_type {
        let (category, event_type) = split(&full_type, '.', "--type", "CATEGORY.TYPE, such as session.started")?;
        set("event_category", Some(category));
        set("event_type", Some(event_type));
    }
    if let Some(entity) = args.entity {
        let (entity_type, id) = split(&entity, ':', "--entity", "TYPE:ID, such as session:s-1")?;
        set("entity_type", Some(entity_type));
        set("entity_id", Some(id));
    }
    set_object(&mut fields, "event_data", args.data.as_deref())?;
    Sender::new(args.target, EVENTS, as_json)?.run(fields).await
}

/// Creates a notification, or many.
///
/// # Errors
/// The arguments are wrong, or the hub refuses some of it.
pub(super) async fn notify(args: NotifyArgs, as_json: bool) -> Result<(), CliError> {
    let mut fields = Map::new();
    for (name, value) in [
        ("user_id", args.user),
        ("title", args.title),
        ("body", args.body),
        ("priority", args.priority),
        ("notification_type", args.notification_type),
        ("action_url", args.action_url),
        ("external_id", args.external_id),
        ("expires_at", args.expires_at),
    ] {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value.into());
        }
    }
    set_object(&mut fields, "context_data", args.data.as_deref())?;
    Sender::new(args.target, NOTIFICATIONS, as_json)?.run(fields).await
}

fn split(text: &str, at: char, flag: &str, form: &str) -> Result<(String, String), CliError> {
    let parts = text.split_once(at).filter(|(before, after)| !before.is_empty() && !after.is_empty());
    let (before, after) = parts.ok_or_else(|| CliError::Usage(format!("{flag} {text:?} must be {form}")))?;
    Ok((before.to_owned(), after.to_owned()))
}

fn set_object(fields: &mut Map<String, Value>, name: &str, text: Option<&str>) -> Result<(), CliError> {
    let Some(text) = text else { return Ok(()) };
    let object: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| CliError::Usage(format!("--data must be a JSON object: {error}")))?;
    fields.insert(name.to_owned(), object.into());
    Ok(())
}

/// Lines of standard input, in the order in which they came.
#[derive(Debug, Default)]
struct Batch {
    items: Vec<Box<RawValue>>,
    bytes: usize,
}

struct Sender {
    client: Client,
    url: String,
    token: String,
    key: Option<String>,
    kind: Kind,
    as_json: bool,
}

impl Sender {
    fn new(target: TargetArgs, kind: Kind, as_json: bool) -> Result<Self, CliError> {
        let base = Url::parse(&target.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| CliError::Usage(format!("--url {:?} must be http://HOST or https://HOST", target.url)))?;
        let url = format!("{}/api/v1/apps/{}/{}", base.as_str().trim_end_matches('/'), target.app, kind.plural);
        crate::crypto::install();
        let client = Client::builder().timeout(TIMEOUT).build();
        let client = client.map_err(|error| CliError::Failed(chain(&error)))?;
        Ok(Self { client, url, token: target.token, key: target.idempotency_key, kind, as_json })
    }

    /// Sends what the flags say, or what comes on standard input.
    async fn run(self, fields: Map<String, Value>) -> Result<(), CliError> {
        if fields.is_empty() { self.send_lines().await } else { self.send_one(&fields).await }
    }

    async fn send_one(&self, fields: &Map<String, Value>) -> Result<(), CliError> {
        let body = serde_json::to_string(fields).map_err(|error| CliError::Failed(error.to_string()))?;
        // Under a key of its own, so that it may be repeated where no answer came.
        let key = self.key.clone().unwrap_or_else(random_key);
        let answer = self.post("", body, &key).await?;
        if self.as_json {
            return say(&answer);
        }
        let id = answer[self.kind.id].as_str().unwrap_or_default();
        match answer["offset"].as_u64() {
            Some(offset) => say(format_args!("{id} offset {offset}")),
            None => say(id),
        }
    }

    async fn send_lines(&self) -> Result<(), CliError> {
        use std::io::IsTerminal as _;
        if std::io::stdin().is_terminal() {
            return Err(CliError::Usage(format!(
                "give the fields of one, or {} on standard input, JSON, one a line",
                self.kind.plural
            )));
        }
        let style = ProgressStyle::with_template("{spinner} {human_pos} {msg} {per_sec} {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        // On standard error, and only where that is a terminal.
        let progress = ProgressBar::new_spinner().with_style(style).with_message(self.kind.plural);
        let (batches, mut next) = mpsc::channel(AHEAD);
        // A thread that nobody waits for: it may stand at an input that stays open.
        let (done, reader) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || done.send(read_batches(&batches)));
        let key = self.key.clone().unwrap_or_else(random_key);
        let (mut sent, mut refused) = (0_u64, 0_u64);
        while let Some(Batch { items, .. }) = next.recv().await {
            let body = json!({self.kind.plural: items}).to_string();
            let answer = self.post("/batch", body, &format!("{key}-{sent}")).await?;
            let outcomes = answer[self.kind.plural].as_array().map(Vec::as_slice).unwrap_or_default();
            if outcomes.len() != items.len() {
                return Err(CliError::Failed("an answer that names not every line: is --url a hub?".to_owned()));
            }
            for (index, outcome) in outcomes.iter().enumerate() {
                if outcome["error"].is_null() {
                    continue;
                }
                refused += 1;
                progress.suspend(|| {
                    let (line, error) = (sent + index as u64 + 1, outcome["error"].as_str().unwrap_or_default());
                    let faults = faults(outcome);
                    let colon = if faults.is_empty() { "" } else { ": " };
                    print_error(format_args!("line {line}: {error}{colon}{faults}"));
                });
            }
            sent += items.len() as u64;
            progress.inc(items.len() as u64);
        }
        progress.finish_and_clear();
        reader.await.map_err(|error| CliError::Failed(error.to_string()))??;
        let accepted = sent - refused;
        if self.as_json {
            say(json!({"accepted": accepted, "refused": refused}))?;
        } else {
            say(format_args!("{accepted} accepted, {refused} refused"))?;
        }
        if refused == 0 { Ok(()) } else { Err(CliError::Failed(format!("{refused} of {sent} were refused"))) }
    }

    /// Posts, and waits and repeats where the hub cannot take it now.
    async fn post(&self, path: &str, body: String, key: &str) -> Result<Value, CliError> {
        let mut pauses = pauses();
        let mut attempts = 0;
        loop {
            let request = self.client.post(format!("{}{path}", self.url)).bearer_auth(&self.token);
            let request = request.header(header::CONTENT_TYPE, "application/json").header("Idempotency-Key", key);
            let (why, wait) = match request.body(body.clone()).send().await {
                Ok(answer) => {
                    let (status, headers) = (answer.status(), answer.headers().clone());
                    let wait = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                    let body = answer.bytes().await.map(|body| serde_json::from_slice::<Value>(&body));
                    let why = match body {
                        Ok(Ok(body)) if status.is_success() => return Ok(body),
                        // A repeat under the same key gets the answer that was cut off.
                        Err(error) if status.is_success() => chain(&error.without_url()),
                        Ok(Err(_)) if status.is_success() => {
                            let what = format!("HTTP {} and no JSON: is --url a hub?", status.as_u16());
                            return Err(CliError::Failed(what));
                        }
                        body => refusal(status, &body.ok().and_then(Result::ok).unwrap_or_default()),
                    };
                    if !matches!(
                        status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY
                    ) {
                        return Err(CliError::Failed(why));
                    }
                    (why, wait.map(Duration::from_secs))
                }
                Err(error) => (chain(&error.without_url()), None),
            };
            attempts += 1;
            if attempts > REPEATS {
                return Err(CliError::Failed(why));
            }
            let wait = wait.or_else(|| pauses.next()).unwrap_or(Duration::from_secs(20));
            print_error(format_args!("{why}; trying again in {:.1} s", wait.as_secs_f64()));
            tokio::time::sleep(wait).await;
        }
    }
}

/// The problem that a hub answered with, in one line.
fn refusal(status: StatusCode, problem: &Value) -> String {
    let faults = faults(problem);
    let detail = problem["detail"].as_str().unwrap_or("and no word why: is --url a hub?");
    format!("HTTP {}: {}", status.as_u16(), if faults.is_empty() { detail } else { &faults })
}

/// The faulty fields of a problem, each with its rule.
fn faults(problem: &Value) -> String {
    let faults = problem["details"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |fault: &Value, key: &str| fault[key].as_str().unwrap_or_default().to_owned();
    let faults: Vec<_> =
        faults.iter().map(|fault| format!("{} {}", text(fault, "field"), text(fault, "message"))).collect();
    faults.join("; ")
}

fn random_key() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Reads lines of JSON into batches, until nobody takes them.
fn read_batches(batches: &mpsc::Sender<Batch>) -> Result<(), CliError> {
    let mut batch = Batch::default();
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let failed =
            |error: &dyn std::fmt::Display| CliError::Failed(format!("standard input, line {}: {error}", number + 1));
        let line = line.map_err(|error| failed(&error))?;
        if line.trim().is_empty() {
            continue;
        }
        let item: Box<RawValue> = serde_json::from_str(&line).map_err(|error| failed(&error))?;
        if !item.get().starts_with('{') {
            return Err(failed(&"must be a JSON object"));
        }
        batch.bytes += line.len();
        batch.items.push(item);
        if batch.items.len() == MAX_BATCH || batch.bytes > BATCH_BYTES {
            if batches.blocking_send(std::mem::take(&mut batch)).is_err() {
                return Ok(());
            }
        }
    }
    if !batch.items.is_empty() {
        let _ = batches.blocking_send(batch);
    }
    Ok(())
}
