//! `publish` and `notify`: an event or a notification from the shell, or many from standard input.

use std::{collections::BTreeMap, io::BufRead as _, time::Duration};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use oriva_hub_actors::model::AppId;
use reqwest::{Client, StatusCode, Url, header, redirect};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::sync::mpsc;

use super::{CliError, chain, pauses, print_error, say};
use crate::{config::masked_url, hub::MAX_BATCH};

/// Bytes of a batch after which it takes no further line.
const BATCH_BYTES: usize = 512 * 1024;
/// Lines that are read ahead.
const AHEAD: usize = 100;
/// A batch is sent when no line comes for this long.
const IDLE: Duration = Duration::from_millis(100);
/// How often a request is repeated that the hub could not take at the time.
const REPEATS: usize = 8;
/// Bytes of a key to which a batch's number is added.
const LONGEST_KEY: usize = 220;
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
    after_help = "Without fields, events are read from standard input: JSON, one a line, with the fields of POST /events. A line is sent when no other follows for 0.1 s, with --idempotency-key when a batch is full or the input ends. Requests that find no hub are repeated for some minutes."
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
    after_help = "Without fields, notifications are read from standard input: JSON, one a line, with the fields of POST /notifications. A line is sent when no other follows for 0.1 s, with --idempotency-key when a batch is full or the input ends. Requests that find no hub are repeated for some minutes."
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
    let mut fields = Fields::default();
    fields.set("user_id", args.user);
    fields.set("audience", args.broadcast.then(|| "all".to_owned()));
    if let Some(full_type) = args.full_type {
        let (category, event_type) = split(&full_type, '.', "--type", "CATEGORY.TYPE, such as session.started")?;
        fields.set("event_category", Some(category));
        fields.set("event_type", Some(event_type));
    }
    if let Some(entity) = args.entity {
        let (entity_type, id) = split(&entity, ':', "--entity", "TYPE:ID, such as session:s-1")?;
        fields.set("entity_type", Some(entity_type));
        fields.set("entity_id", Some(id));
    }
    fields.set_object("event_data", args.data)?;
    Sender::new(args.target, EVENTS, as_json)?.run(fields).await
}

/// Creates a notification, or many.
///
/// # Errors
/// The arguments are wrong, or the hub refuses some of it.
pub(super) async fn notify(args: NotifyArgs, as_json: bool) -> Result<(), CliError> {
    let mut fields = Fields::default();
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
        fields.set(name, value);
    }
    fields.set_object("context_data", args.data)?;
    Sender::new(args.target, NOTIFICATIONS, as_json)?.run(fields).await
}

fn split(text: &str, at: char, flag: &str, form: &str) -> Result<(String, String), CliError> {
    let parts = text.split_once(at).filter(|(before, after)| !before.is_empty() && !after.is_empty());
    let (before, after) = parts.ok_or_else(|| CliError::Usage(format!("{flag} {text:?} must be {form}")))?;
    Ok((before.to_owned(), after.to_owned()))
}

/// What the flags say. JSON of the caller's stays as it was written: a number keeps its digits.
#[derive(Debug, Default)]
struct Fields(BTreeMap<&'static str, Box<RawValue>>);

impl Fields {
    fn set(&mut self, name: &'static str, value: Option<String>) {
        if let Some(value) = value.and_then(|value| to_raw_value(&value).ok()) {
            self.0.insert(name, value);
        }
    }

    fn set_object(&mut self, name: &'static str, text: Option<String>) -> Result<(), CliError> {
        let Some(text) = text else { return Ok(()) };
        let object = object(text).map_err(|why| CliError::Usage(format!("--data {why}")))?;
        self.0.insert(name, object);
        Ok(())
    }
}

/// A JSON object, as it is written.
fn object(text: String) -> Result<Box<RawValue>, String> {
    let object = RawValue::from_string(text.trim().to_owned()).map_err(|error| error.to_string())?;
    if object.get().starts_with('{') { Ok(object) } else { Err("must be a JSON object".to_owned()) }
}

/// A line of standard input.
#[derive(Debug)]
struct Line {
    number: usize,
    item: Box<RawValue>,
}

/// Why the hub did not take a request.
enum Refused {
    /// It has too many items, or too many bytes: fewer of them may do.
    TooLarge(String),
    Other(String),
}

impl From<Refused> for CliError {
    fn from(refused: Refused) -> Self {
        let (Refused::TooLarge(why) | Refused::Other(why)) = refused;
        Self::Failed(why)
    }
}

/// What became of the lines so far.
#[derive(Debug, Default)]
struct Count {
    accepted: u64,
    refused: u64,
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
        let base =
            Url::parse(&target.url).ok().filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(|| {
                CliError::Usage(format!("--url {:?} must be http://HOST or https://HOST", masked_url(&target.url)))
            })?;
        let url = format!("{}/api/v1/apps/{}/{}", base.as_str().trim_end_matches('/'), target.app, kind.plural);
        crate::crypto::install();
        let client = Client::builder().timeout(TIMEOUT).redirect(redirect::Policy::none()).build();
        let client = client.map_err(|error| CliError::Failed(chain(&error)))?;
        Ok(Self { client, url, token: target.token, key: target.idempotency_key, kind, as_json })
    }

    /// Sends what the flags say, or what comes on standard input.
    async fn run(self, fields: Fields) -> Result<(), CliError> {
        if fields.0.is_empty() { self.send_lines().await } else { self.send_one(&fields.0).await }
    }

    async fn send_one(&self, fields: &BTreeMap<&'static str, Box<RawValue>>) -> Result<(), CliError> {
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
        let (lines, next) = mpsc::channel(AHEAD);
        // A thread that nobody waits for: it may stand at an input that stays open.
        std::thread::spawn(move || read_lines(&lines));
        let mut count = Count::default();
        let ended = tokio::select! {
            ended = self.send_batches(next, &mut count, &progress) => ended,
            _ = tokio::signal::ctrl_c() => {
                Err("interrupted; what was under way may have been accepted".to_owned())
            }
        };
        progress.finish_and_clear();
        let Count { accepted, refused } = count;
        if self.as_json {
            say(json!({"accepted": accepted, "refused": refused}))?;
        } else {
            say(format_args!("{accepted} accepted, {refused} refused"))?;
        }
        ended.map_err(CliError::Failed)?;
        if refused == 0 {
            Ok(())
        } else {
            Err(CliError::Failed(format!("{refused} of {} were refused", accepted + refused)))
        }
    }

    /// Sends lines until they end. A line that is none ends them too, when those before it are sent.
    async fn send_batches(
        &self,
        mut next: mpsc::Receiver<Result<Line, String>>,
        count: &mut Count,
        progress: &ProgressBar,
    ) -> Result<(), String> {
        let key = self.key.clone().unwrap_or_else(random_key);
        if key.len() > LONGEST_KEY {
            return Err(format!("--idempotency-key may have {LONGEST_KEY} characters: each batch's number is added"));
        }
        // Under a key of the caller's, the same input makes the same batches, however slowly it comes.
        let idle = if self.key.is_some() { Duration::MAX } else { IDLE };
        let (mut batch, mut most, mut end) = (Vec::<Line>::new(), MAX_BATCH, None);
        loop {
            while batch.len() < most
                && end.is_none()
                && batch.iter().map(|line| line.item.get().len()).sum::<usize>() < BATCH_BYTES
            {
                let line = if batch.is_empty() {
                    next.recv().await
                } else {
                    let Ok(line) = tokio::time::timeout(idle, next.recv()).await else { break };
                    line
                };
                match line {
                    Some(Ok(line)) => batch.push(line),
                    Some(Err(error)) => end = Some(Err(error)),
                    None => end = Some(Ok(())),
                }
            }
            let Some(first) = batch.first().map(|line| line.number) else { return end.unwrap_or(Ok(())) };
            let rest = batch.split_off(most.min(batch.len()));
            let items: Vec<_> = batch.iter().map(|line| &line.item).collect();
            let body = serde_json::to_string(&BTreeMap::from([(self.kind.plural, items)]))
                .map_err(|error| error.to_string())?;
            let stopped = |why: String| format!("stopped at line {first}: {why}");
            let answer = match self.post("/batch", body, &format!("{key}-{first}-{}", batch.len())).await {
                Ok(answer) => answer,
                Err(Refused::TooLarge(_)) if batch.len() > 1 => {
                    most = batch.len() / 2;
                    batch.extend(rest);
                    continue;
                }
                Err(Refused::TooLarge(why) | Refused::Other(why)) => return Err(stopped(why)),
            };
            let outcomes = answer[self.kind.plural].as_array().map(Vec::as_slice).unwrap_or_default();
            if outcomes.len() != batch.len() {
                return Err(stopped("an answer that names not every line: is --url a hub?".to_owned()));
            }
            for (line, outcome) in batch.iter().zip(outcomes) {
                let Some(error) = outcome["error"].as_str() else {
                    count.accepted += 1;
                    continue;
                };
                count.refused += 1;
                let faults = faults(outcome);
                let why = if faults.is_empty() { error } else { &faults };
                progress.suspend(|| print_error(format_args!("line {}: {why}", line.number)));
            }
            progress.inc(batch.len() as u64);
            batch = rest;
        }
    }

    /// Posts, and waits and repeats where the hub cannot take it now.
    async fn post(&self, path: &str, body: String, key: &str) -> Result<Value, Refused> {
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
                    let mut is_under_way = false;
                    let why = match body {
                        Ok(Ok(body)) if status.is_success() => return Ok(body),
                        // A repeat under the same key gets the answer that was cut off.
                        Err(error) if status.is_success() => chain(&error.without_url()),
                        Ok(Err(_)) if status.is_success() => {
                            let what = format!("HTTP {} and no JSON: is --url a hub?", status.as_u16());
                            return Err(Refused::Other(what));
                        }
                        body => {
                            let problem = body.ok().and_then(Result::ok).unwrap_or_default();
                            // The first attempt may be under way still. Then this says so, until it has ended.
                            is_under_way = attempts > 0 && problem["code"] == "conflict";
                            refusal(status, &problem)
                        }
                    };
                    if status == StatusCode::PAYLOAD_TOO_LARGE {
                        return Err(Refused::TooLarge(why));
                    }
                    let is_passing =
                        status.is_success() || status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                    if !is_passing && !is_under_way {
                        return Err(Refused::Other(why));
                    }
                    (why, wait.map(Duration::from_secs))
                }
                Err(error) => (chain(&error.without_url()), None),
            };
            attempts += 1;
            if attempts > REPEATS {
                return Err(Refused::Other(format!("{why}; given up after {attempts} attempts")));
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
    let detail = match status {
        StatusCode::NOT_FOUND => "the hub has no such app, or the token is another app's: see --app and --url",
        _ => problem["detail"].as_str().unwrap_or("and no word why: is --url a hub?"),
    };
    format!("HTTP {}: {}", status.as_u16(), if faults.is_empty() { detail } else { &faults })
}

/// The faulty fields of a problem, each with its rule.
fn faults(problem: &Value) -> String {
    let faults = problem["details"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |fault: &Value| {
        let (field, message) =
            (fault["field"].as_str().unwrap_or_default(), fault["message"].as_str().unwrap_or_default());
        if message.starts_with(field) { message.to_owned() } else { format!("{field} {message}") }
    };
    faults.iter().map(text).collect::<Vec<_>>().join("; ")
}

fn random_key() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Reads lines of JSON until one is none, or nobody takes them.
fn read_lines(lines: &mpsc::Sender<Result<Line, String>>) {
    for (index, line) in std::io::stdin().lock().lines().enumerate() {
        let number = index + 1;
        let line = line.map(|line| line.trim_start_matches('\u{feff}').to_owned());
        let item = match line {
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) => object(line),
            Err(error) => Err(error.to_string()),
        };
        let line = item
            .map(|item| Line { number, item })
            .map_err(|error| format!("standard input, line {number}: {error}; it and what follows was not sent"));
        let is_last = line.is_err();
        if lines.blocking_send(line).is_err() || is_last {
            return;
        }
    }
}
