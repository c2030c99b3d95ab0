//! `config show` and `config check`.

use clap::Subcommand;
use serde_json::json;

use super::{
    CliError,
    doctor::{self, DoctorArgs},
    say,
};
use crate::{
    config::{Loaded, Secrets},
    server,
};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print all settings with their sources; secrets are masked
    Show,
    /// Check the settings: exit with 0, or print one line and exit with 2
    Check {
        /// Also look at the store, Redis and all else that doctor looks at; exit with 1 if something is bad
        #[arg(long)]
        connect: bool,
    },
}

pub(super) async fn run(command: &ConfigCommand, loaded: &Loaded, as_json: bool) -> Result<(), CliError> {
    match command {
        // Reading the settings has checked them. What is left are the files that they name.
        ConfigCommand::Check { connect } => {
            server::check_parts(&loaded.config)?;
            Secrets::check(&loaded.config)?;
            if *connect {
                return doctor::run(&DoctorArgs::default(), &loaded.config, as_json).await;
            }
            if as_json {
                say(json!({"ok": true}))?;
            }
        }
        ConfigCommand::Show => {
            let settings = loaded.settings()?;
            if as_json {
                say(json!({"settings": settings}))?;
            } else {
                for setting in settings {
                    say(format_args!("{} = {}  # {}", setting.key, setting.value, setting.source))?;
                }
            }
        }
    }
    Ok(())
}
