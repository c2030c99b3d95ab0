//! The scenarios: what is done to the hub, and what is looked at.

mod deliver;
mod mixed;
mod rest;
mod resume;
mod webhook;

use std::fmt;

use clap::ValueEnum;

use crate::{Failure, RunArgs, report::Report, run::Run};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Sockets that only rest: memory a connection, CPU of heartbeats
    Idle,
    /// Connects as fast as it goes
    Storm,
    /// Events to users in turn, `--devices` sockets each
    Unicast,
    /// Every event to every socket of all users
    Broadcast,
    /// Every event of an app to its own sockets (at most `stream.max_connections`)
    Firehose,
    /// Publishing with nobody connected
    Publish,
    /// All sockets go, miss events, and come back at once with `after`
    Resume,
    /// Publish, notify, read the feed, dismiss
    Mixed,
    /// Events to a local endpoint: from commit to arrival
    Webhook,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// Runs what was asked for.
pub async fn run(args: &RunArgs) -> Result<Report, Failure> {
    let run = Run::start(args).await?;
    match args.scenario {
        Scenario::Idle => rest::idle(run).await,
        Scenario::Storm => rest::storm(run).await,
        Scenario::Unicast | Scenario::Broadcast | Scenario::Firehose | Scenario::Publish => deliver::run(run).await,
        Scenario::Resume => resume::run(run).await,
        Scenario::Mixed => mixed::run(run).await,
        Scenario::Webhook => webhook::run(run).await,
    }
}

/// A connection a socket: `devices` for each of so many users.
async fn reserved(run: &Run<'_>) -> Result<Vec<(String, Option<u64>)>, Failure> {
    let devices = run.args.devices.max(1);
    let users = run.args.connections.div_ceil(devices);
    let tokens = run.target.tokens(users).await?;
    // Users in turn, so that a user's devices do not all come at once.
    Ok((0..run.args.connections).map(|n| (tokens[n % users].clone(), None)).collect())
}
