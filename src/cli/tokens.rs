//! `token create`.

use std::time::Duration;

use clap::Subcommand;
use oriva_hub_actors::model::{AppId, UserId};
use serde_json::json;

use super::{CliError, existing_store, say};
use crate::{
    auth::Tokens,
    config::{Config, Secrets},
    hub::Apps,
};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Create a token for a user of an app and print it
    Create {
        /// The app that issues the token
        #[arg(value_parser = |text: &str| AppId::parse(text))]
        app_id: AppId,
        /// The user's id
        #[arg(value_parser = |text: &str| UserId::parse(text))]
        user_id: UserId,
        /// Lifetime in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
        ttl: u64,
    },
}

pub(super) async fn run(command: TokenCommand, config: &Config, as_json: bool) -> Result<(), CliError> {
    let TokenCommand::Create { app_id, user_id, ttl } = command;
    Apps::new(existing_store(config).await?)
        .get(&app_id)
        .await
        .map_err(|_| CliError::Failed(format!("there is no app {app_id}")))?;
    let tokens = Tokens::new(&Secrets::resolve(config)?.token_secret);
    let (token, expires_at) = tokens
        .issue(&app_id, &user_id, Duration::from_secs(ttl))
        .map_err(|error| CliError::Failed(error.to_string()))?;
    if as_json {
        say(json!({"token": token, "expires_at": expires_at}))?;
    } else {
        say(format_args!("{token}"))?;
    }
    Ok(())
}
