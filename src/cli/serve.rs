//! `serve` and `migrate`.

use actix_rt::signal::unix::{SignalKind, signal};
use clap::Args;
use serde_json::json;

use super::{CliError, must_exist, print_error, say};
use crate::{
    config::{Config, masked_url},
    server::{Server, open_store},
};

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
}

/// Runs a node until it gets a signal to stop.
pub(super) async fn run(config: &Config, args: &ServeArgs) -> Result<(), CliError> {
    let server = Server::build(config, args.migrate).await?;
    let listen = |kind| signal(kind).map_err(|error| CliError::Failed(format!("signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        actix_rt::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            // Committed events are on the disk. Others were not acknowledged.
            print_error("second signal, ending at once");
            std::process::exit(1);
        });
    };
    Ok(server.run_until_stopped(stop).await?)
}

/// Applies pending migrations, and prints the store and their names.
pub(super) async fn migrate(config: &Config, args: &MigrateArgs, as_json: bool) -> Result<(), CliError> {
    must_exist(config)?;
    let url = masked_url(&config.database.url);
    let store = open_store(config).await?;
    let applied = store.migrate().await?;
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
