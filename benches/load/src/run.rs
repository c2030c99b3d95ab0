//! One run: what is loaded, what is counted, and the report that comes of it.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    Failure, RunArgs,
    fleet::{Fleet, Opening, ReservedConnection},
    measure::{Cost, Counters, Latency, Recorder, cost, histogram, sum},
    report::{Report, machine},
    target::Target,
};

pub struct Run<'a> {
    pub args: &'a RunArgs,
    pub target: Target,
    pub counters: Arc<Counters>,
    pub figures: Vec<(String, f64, String)>,
    /// Sockets that are open.
    connections: Arc<AtomicU64>,
    most: u64,
    recorder: Recorder,
    bar: ProgressBar,
    began_at: String,
}

/// What was measured between two moments.
#[derive(Clone, Copy)]
pub struct Mark {
    at: Instant,
    server: Option<Cost>,
    client: Option<Cost>,
}

impl<'a> Run<'a> {
    pub async fn start(args: &'a RunArgs) -> Result<Self, Failure> {
        let mut addrs: Vec<SocketAddr> = Vec::new();
        for url in &args.url {
            let (host, port) = (url.host_str().unwrap_or("127.0.0.1"), url.port_or_known_default().unwrap_or(80));
            if url.scheme() != "http" {
                return Err(Failure::Usage(
                    "--url wants http://HOST:PORT: put the load where TLS has ended".to_owned(),
                ));
            }
            addrs.extend((host, port).to_socket_addrs()?.next());
        }
        let target = if args.floor { Target::floor(addrs) } else { Target::hub(addrs, &args.admin_key).await? };
        let counters = Arc::<Counters>::default();
        let bar = ProgressBar::new_spinner();
        bar.set_style(
            ProgressStyle::with_template("{spinner} {prefix} {pos}/{len} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.enable_steady_tick(Duration::from_millis(200));
        let connections = Arc::<AtomicU64>::default();
        let shown = bar.clone();
        let recorder = Recorder::start(&counters, &connections, args.pid.clone(), move |second| {
            shown.set_message(format!(
                "{}/s delivered, {}/s requests, p99 {:.1} ms",
                second.delivered,
                second.requests,
                second.delivery.p99_us.max(second.answer.p99_us) as f64 / 1000.0
            ));
        });
        let began_at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        Ok(Self { args, target, counters, figures: Vec::new(), connections, most: 0, recorder, bar, began_at })
    }

    pub fn figure(&mut self, name: &str, value: f64, unit: &str) {
        self.figures.push((name.to_owned(), value, unit.to_owned()));
    }

    /// Opens sockets; how long that took each.
    pub async fn open(&mut self, reserved: Vec<ReservedConnection>) -> Result<(Fleet, Histogram<u64>), Failure> {
        let took = Arc::new(Mutex::new(histogram()));
        let into = took.clone();
        self.bar.set_prefix("connecting");
        self.bar.set_length(reserved.len() as u64);
        self.bar.set_position(0);
        let opening = Opening { at_once: self.args.at_once, sources: self.args.sources };
        let fleet = Fleet::open(
            &self.target,
            reserved,
            opening,
            (&self.counters, &self.connections),
            &self.bar,
            move |duration| {
                let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
                into.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us);
            },
        )
        .await?;
        self.most = self.most.max(self.connections.load(Relaxed));
        let took = std::mem::replace(&mut *took.lock().unwrap_or_else(PoisonError::into_inner), histogram());
        Ok((fleet, took))
    }

    /// Lets the warm-up pass, and begins to measure.
    pub async fn warm_up(&mut self) -> Mark {
        self.bar.set_prefix("warming up");
        tokio::time::sleep(Duration::from_secs(self.args.warmup)).await;
        self.counters.reset();
        self.mark()
    }

    pub fn mark(&self) -> Mark {
        Mark { at: Instant::now(), server: sum(&self.args.pid), client: cost(std::process::id()) }
    }

    /// Measures for as long as was asked for.
    pub async fn measure(&mut self) {
        self.bar.set_prefix("measuring");
        self.bar.set_length(self.args.duration);
        for second in 0..self.args.duration {
            self.bar.set_position(second);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    pub fn latency_figures(&mut self, name: &str, latency: Latency) {
        for (part, us) in [("p50", latency.p50_us), ("p99", latency.p99_us), ("max", latency.max_us)] {
            self.figure(&format!("{name} {part}"), us as f64 / 1000.0, "ms");
        }
    }

    /// The report of what happened since a mark.
    pub fn report(self, since: Mark) -> Report {
        let now = self.mark();
        self.report_between(since, now)
    }

    /// The report of what happened between two marks. What arrived after the second one counts as having arrived.
    pub fn report_between(self, since: Mark, now: Mark) -> Report {
        self.counters.settle();
        self.bar.finish_and_clear();
        let between = |before: Option<Cost>, after: Option<Cost>| {
            let (before, after) = (before?, after?);
            Some(Cost { cpu_seconds: after.cpu_seconds - before.cpu_seconds, memory_kib: after.memory_kib })
        };
        Report {
            scenario: self.args.scenario.to_string(),
            command: command_line(),
            began_at: self.began_at,
            machine: machine(),
            connections: self.most,
            seconds: (now.at - since.at).as_secs_f64(),
            totals: self.counters.totals(),
            server: between(since.server, now.server),
            client: between(since.client, now.client),
            figures: self.figures,
            by_second: self.recorder.seconds(),
        }
    }
}

/// As it was called, without the admin key and passwords.
fn command_line() -> String {
    let mut args: Vec<String> = std::env::args().skip(1).map(without_password).collect();
    for at in 0..args.len() {
        if args[at].starts_with("--admin-key=") {
            "--admin-key=…".clone_into(&mut args[at]);
        } else if at > 0 && args[at - 1] == "--admin-key" {
            "…".clone_into(&mut args[at]);
        }
    }
    format!("oriva-hub-bench {}", args.join(" "))
}

/// An argument: `URL` or `--option=URL` has its password hidden.
fn without_password(arg: String) -> String {
    let (option, value) = arg.split_once('=').filter(|(option, _)| option.starts_with("--")).unwrap_or(("", &arg));
    let Some(mut url) = url::Url::parse(value).ok().filter(|url| url.password().is_some()) else { return arg };
    let _ = url.set_password(Some("hidden"));
    if option.is_empty() { url.to_string() } else { format!("{option}={url}") }
}
