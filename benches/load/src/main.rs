//! Load for any oriva-hub, by its URL: sockets by the ten thousand, publishers in closed or open loop, offsets followed, and
//! what server and tool cost. `benches/README.md` tells how to use it and what it found.

mod chart;
mod fleet;
mod floor;
mod http;
mod installation;
mod ledger;
mod measure;
mod publish;
mod relay;
mod report;
mod run;
mod scenarios;
mod socket;
mod target;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{installation::Installation, report::Report, scenarios::Scenario};

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("network: {0}")]
    Network(#[from] std::io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("refused ({0}): {1}")]
    Refused(u16, String),
    #[error("an answer that is none: {0}")]
    Answer(String),
    #[error("{0}")]
    Usage(String),
}

#[derive(Parser)]
#[command(name = "oriva-hub-bench", about = "Load for any oriva-hub, by its URL")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a scenario
    Run(Box<RunArgs>),
    /// Serves as the floor: a bare loop that the same scenarios can measure
    Floor {
        #[arg(long, default_value = "127.0.0.1:9090")]
        bind: SocketAddr,
    },
    /// Keeps account of everything that is accepted while its operator breaks the installation, and says what was lost
    Ledger(Box<ledger::LedgerArgs>),
    /// Puts two reports side by side
    Compare { a: PathBuf, b: PathBuf },
}

/// How a scenario is run.
#[derive(Debug, Clone, Args)]
struct RunArgs {
    scenario: Scenario,
    /// Nodes to load, in turn: http://HOST:PORT, comma separated
    #[arg(long, default_value = "http://127.0.0.1:8080", value_delimiter = ',')]
    url: Vec<url::Url>,
    /// The hub's admin key: the tool makes an app of its own with budgets that no load exceeds
    #[arg(long, env = "ORIVA_HUB__AUTH__ADMIN_KEY", hide_env_values = true, default_value = "")]
    admin_key: String,
    /// A hub's program: the tool starts one for this run, instead of loading --url
    #[arg(long, requires = "store")]
    hub: Option<PathBuf>,
    /// Its store: sqlite://FILE or postgres://…, migrated
    #[arg(long)]
    store: Option<url::Url>,
    /// Its Redis
    #[arg(long)]
    redis: Option<url::Url>,
    /// A network between the hub and its PostgreSQL and Redis: milliseconds there and back
    #[arg(long, value_name = "MS")]
    delay_store: Option<f64>,
    /// The hub speaks TLS to PostgreSQL and Redis
    #[arg(long)]
    tls_store: bool,
    /// A network between the tool and the hub: milliseconds there and back
    #[arg(long, value_name = "MS")]
    delay_client: Option<f64>,
    /// The URL is a floor's
    #[arg(long)]
    floor: bool,
    /// Sockets
    #[arg(long, short = 'c', default_value_t = 1000)]
    connections: usize,
    /// Sockets a user
    #[arg(long, default_value_t = 1)]
    devices: usize,
    /// Connections that publish
    #[arg(long, short = 'p', default_value_t = 8)]
    publishers: usize,
    /// Open loop: events a second over all publishers. Without it each publishes as fast as it is answered
    #[arg(long, short = 'r')]
    rate: Option<f64>,
    /// Bytes of padding in an event's data
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Seconds that are measured
    #[arg(long, short = 'd', default_value_t = 10)]
    duration: u64,
    /// Seconds before that are not
    #[arg(long, default_value_t = 2)]
    warmup: u64,
    /// Handshakes under way at once
    #[arg(long, default_value_t = 64)]
    at_once: usize,
    /// Loopback addresses to connect from: one has ports for some 28 000 sockets
    #[arg(long, default_value_t = 4)]
    sources: u8,
    /// Processes whose CPU and memory are the server's: hub, nodes, database
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
    /// Threads of the tool
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Where the report goes as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the charts go as SVG
    #[arg(long)]
    chart: Option<PathBuf>,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => measured(&args),
        Command::Ledger(args) => runtime(2).and_then(|runtime| runtime.block_on(ledger::run(&args))),
        Command::Floor { bind } => floor::run(bind).map_err(Failure::from),
        Command::Compare { a, b } => Report::read(&a).and_then(|a| {
            report::compare(&a, &Report::read(&b)?);
            Ok(())
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oriva-hub-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, Failure> {
    let _ = rlimit::increase_nofile_limit(1 << 20);
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(threads.max(1)).enable_all().build()?)
}

fn measured(args: &RunArgs) -> Result<(), Failure> {
    let runtime = runtime(args.threads)?;
    let installation = runtime.block_on(Installation::start(args))?;
    let mut report = runtime.block_on(scenarios::run(&installation.args))?;
    report.figures.extend(installation.figures);
    report.print();
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    if let Some(path) = &args.chart {
        chart::draw(&report, path)?;
    }
    Ok(())
}
