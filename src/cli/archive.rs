//! `archive`: runs the archiver now, instead of at midnight.

use clap::Args;

use super::{CliError, existing_store, say};
use crate::{config::Config, hub::NextExpiry, workers::Archiver};

#[derive(Debug, Args)]
pub(super) struct ArchiveArgs {
    /// Only print the number of rows past retention
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: &ArchiveArgs, config: &Config, json: bool) -> Result<(), CliError> {
    let store = existing_store(config).await?;
    let archiver = Archiver::new(store.clone(), &config.retention, std::sync::Arc::new(NextExpiry::default()));
    let rows = if args.dry_run { archiver.due().await? } else { archiver.run_until_empty().await?.retired };
    store.close().await;
    if json {
        let counts: serde_json::Map<_, _> =
            rows.iter().map(|(what, count)| (what.as_str().to_owned(), (*count).into())).collect();
        say(serde_json::Value::Object(counts))?;
    } else {
        for (what, count) in rows {
            say(format_args!("{:<14}{count:>12}", what.as_str()))?;
        }
    }
    Ok(())
}
