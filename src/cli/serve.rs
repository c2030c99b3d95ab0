//! `serve` and `migrate`.

use std::{sync::atomic::Ordering, time::Duration};

use clap::Args;
use serde_json::json;

use super::{CliError, must_exist, say, stop};
use crate::{
    config::{Config, masked_url},
    server::{End, Server, open_store},
};

const RETRY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default, Args)]
pub(super) struct ServeArgs {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<String>,
    /// Apply pending migrations to a PostgreSQL store first (an embedded store is always migrated)
    #[arg(long)]
    migrate: bool,
}

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    /// Take a new epoch, for a store restored from a backup: clients that resume are told to reload
    #[arg(long)]
    new_epoch: bool,
    /// Let this login of PostgreSQL, which must exist, be the nodes' one
    #[arg(long, value_name = "LOGIN")]
    grant_to: Option<String>,
}

/// Runs a node until it gets a signal to stop, or has to begin anew.
pub(super) async fn run(config: &Config, args: &ServeArgs) -> Result<End, CliError> {
    let server = Server::build(config, args.migrate).await?;
    let (stop, was_told) = stop::first_signal().map_err(|error| CliError::Failed(format!("signals: {error}")))?;
    let end = server.run_until_stopped(stop).await?;
    if end == End::EpochChanged && !config.is_embedded() {
        // What made the epoch change may go on, as a failover does.
        while !was_told.load(Ordering::SeqCst) && !answers(config).await {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
    // While the node ended for the epoch's sake, it may have been told to stop.
    Ok(if was_told.load(Ordering::SeqCst) { End::Stopped } else { end })
}

async fn answers(config: &Config) -> bool {
    let Ok(store) = open_store(config).await else { return false };
    let answer = store.try_writing().await;
    store.close().await;
    if let Err(error) = &answer {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "the store does not answer; it begins anew when it does"
        );
    }
    answer.is_ok()
}

/// Applies pending migrations, and prints the store and their names.
pub(super) async fn migrate(config: &Config, args: &MigrateArgs, as_json: bool) -> Result<(), CliError> {
    must_exist(config)?;
    let url = masked_url(&config.database.url);
    let store = open_store(config).await?;
    let applied = store.migrate().await?;
    if let Some(login) = &args.grant_to {
        store.grant_to(login).await?;
    }
    let epoch = if args.new_epoch { store.renew_epoch(None).await? } else { store.epoch().await? };
    if as_json {
        say(json!({"store": url, "applied": applied, "epoch": epoch}))?;
    } else if applied.is_empty() {
        say(format_args!("{url}: up to date, epoch {epoch}"))?;
    } else {
        say(format_args!("{url}: applied {}, epoch {epoch}", applied.join(", ")))?;
    }
    Ok(())
}
