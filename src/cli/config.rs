//! `config show` and `config check`.

use clap::Subcommand;
use serde_json::json;

use super::{CliError, say};
use crate::{
    config::{Loaded, Secrets},
    server,
};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the effective settings and where each came from, secrets masked
    Show,
    /// Check the settings: silent and 0, or one line and 2
    Check,
}

pub(super) fn run(command: &ConfigCommand, loaded: &Loaded, as_json: bool) -> Result<(), CliError> {
    match command {
        // Reading them checked them; what is left is what they name.
        ConfigCommand::Check => {
            server::check_parts(&loaded.config)?;
            Secrets::resolve(&loaded.config)?;
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
