//! The proof, for anyone: publishes, notifies and dismisses against any installation while its operator breaks it, follows
//! every path by which events come out, and says at the end what was accepted, what came, and what is missing.

mod book;
mod desk;
mod endpoint;
mod reader;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::json;
use tokio::sync::watch;

use self::{
    book::{Book, Verdict},
    desk::Desk,
    reader::Reader,
};
use crate::Failure;

/// How long everything has to arrive after the last request was answered.
const SETTLE: Duration = Duration::from_secs(120);

/// Against what, and how.
#[derive(Debug, Clone, Args)]
pub struct LedgerArgs {
    /// Addresses of the hub, taken in turn: nodes or proxies, http:// or https://, comma separated
    #[arg(long, default_value = "http://127.0.0.1:8080", value_delimiter = ',')]
    url: Vec<url::Url>,
    /// The hub's admin key: the tool makes an app of its own
    #[arg(long, env = "ORIVA_HUB__AUTH__ADMIN_KEY", hide_env_values = true)]
    admin_key: String,
    /// Seconds to run; without it until Ctrl-C
    #[arg(long, short = 'd')]
    duration: Option<u64>,
    /// Users
    #[arg(long, default_value_t = 20)]
    users: usize,
    /// Sockets of each user
    #[arg(long, default_value_t = 2)]
    devices: usize,
    /// Requests a second over all lanes: events, notifications, dismissals
    #[arg(long, short = 'r', default_value_t = 50.0)]
    rate: f64,
    /// Connections that send them
    #[arg(long, short = 'p', default_value_t = 8)]
    publishers: usize,
    /// Mean seconds for which a socket stays before it goes and comes back
    #[arg(long, default_value_t = 20)]
    stay: u64,
    /// Where the webhook endpoint listens; without it there is none. The hub must be allowed to call it
    #[arg(long)]
    webhook_bind: Option<SocketAddr>,
    /// How the hub reaches that endpoint, where not as http://ADDRESS/
    #[arg(long, requires = "webhook_bind")]
    webhook_url: Option<url::Url>,
    /// Where the verdict goes as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs until its time is over or Ctrl-C, and prints the verdict.
///
/// # Errors
/// The hub could not be set up for it, or the verdict is that something is wrong.
pub async fn run(args: &LedgerArgs) -> Result<(), Failure> {
    let desk = Arc::new(Desk::open(&args.url, &args.admin_key, args.users).await?);
    let book = Arc::new(Book::new(args.users));
    // The endpoint asks for it as long as this is there.
    let mut signing = None;
    if let Some(bind) = args.webhook_bind {
        let (secret, knows_secret) = watch::channel(String::new());
        let endpoint = endpoint::listen(bind, book.clone(), knows_secret).await?;
        let url = args.webhook_url.as_ref().map_or_else(|| format!("http://{endpoint}/"), ToString::to_string);
        let _ = secret.send(desk.register_webhook(&url).await?);
        signing = Some(secret);
        book.expect_webhooks();
    }
    let (stop, stopped) = watch::channel(false);
    let mut readers = Vec::new();
    for user in 0..args.users {
        for device in 0..args.devices.max(1) {
            let reader = Reader::new(desk.clone(), book.clone(), user, device, Duration::from_secs(args.stay.max(1)));
            readers.push(tokio::spawn(reader.run(stopped.clone())));
        }
    }
    let pause = Duration::from_secs_f64(args.publishers.max(1) as f64 / args.rate.max(0.01));
    let (halt, halted) = watch::channel(false);
    let lanes: Vec<_> = (0..args.publishers.max(1))
        .map(|lane| {
            let (desk, book, halted) = (desk.clone(), book.clone(), halted.clone());
            tokio::spawn(async move { desk.work(lane, pause, &book, halted).await })
        })
        .collect();
    eprintln!(
        "app {}: {} users, {} requests a second; break what you like, Ctrl-C for the verdict",
        desk.app(),
        args.users,
        args.rate
    );
    let began = Instant::now();
    wait(args.duration, began, &book).await;
    let _ = halt.send(true);
    for lane in lanes {
        let _ = lane.await;
    }
    eprintln!("waiting until everything has arrived");
    let settled = Instant::now() + SETTLE;
    while Instant::now() < settled && !book.is_complete() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let counts = desk.counts(&book).await;
    let _ = stop.send(true);
    for reader in readers {
        let _ = reader.await;
    }
    let verdict = book.verdict(began.elapsed(), counts);
    print(&verdict);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&verdict).map_err(|error| Failure::Answer(error.to_string()))?;
        std::fs::write(path, text)?;
    }
    desk.close().await;
    drop(signing);
    if verdict.is_good() { Ok(()) } else { Err(Failure::Answer("the verdict above".to_owned())) }
}

/// Prints the progress every ten seconds.
async fn wait(duration: Option<u64>, began: Instant, book: &Book) {
    let end = duration.map(|seconds| began + Duration::from_secs(seconds));
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let next = Instant::now() + Duration::from_secs(10);
        let until = end.map_or(next, |end| end.min(next));
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            _ = &mut interrupted => return,
        }
        if end.is_some_and(|end| end <= Instant::now()) {
            return;
        }
        eprintln!("{:>5} s  {}", began.elapsed().as_secs(), book.standing());
    }
}

fn print(verdict: &Verdict) {
    println!("\nledger · {} s", verdict.seconds);
    for (name, value) in verdict.rows() {
        println!("  {name:<44} {value:>10}");
    }
    for example in &verdict.examples {
        println!("  ! {example}");
    }
    println!(
        "{}",
        if verdict.is_good() { "nothing is lost, repeated, out of order or counted wrong" } else { "NOT GOOD" }
    );
}

/// What stands in the book for a frame or a webhook's body: an event's id, or what happened to which notification.
fn entry(event: &serde_json::Value) -> Option<String> {
    match event["event_type"].as_str()? {
        kind @ ("notification.created" | "notification.dismissed") => {
            Some(format!("{kind} {}", event["entity_id"].as_str()?))
        }
        _ => event["event_id"].as_str().map(str::to_owned),
    }
}

/// An event that only its mark tells from others.
fn event(user: &str, mark: u64) -> serde_json::Value {
    json!({
        "user_id": user, "event_category": "session", "event_type": "ledger",
        "entity_type": "mark", "entity_id": mark.to_string(), "event_data": {"mark": mark}
    })
}
