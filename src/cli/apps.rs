//! `app` and `key`.

use clap::Subcommand;
use oriva_hub_actors::model::{AppId, Invalid, KeyId};
use serde_json::json;

use super::{CliError, audit, existing_store, say, store_or_new};
use crate::{
    config::Config,
    hub::{Apps, HubError, display_name, image_url, new_app_id},
    store::{AppChange, NewApp},
};

#[derive(Debug, Subcommand)]
pub(super) enum AppCommand {
    /// Create an app and print its first key, which is shown once
    Create {
        /// The app's id
        #[arg(value_parser = |text: &str| new_app_id(text))]
        app_id: AppId,
        /// The app's name, as people see it
        #[arg(long, value_parser = |text: &str| display_name(text))]
        name: String,
        /// URL of the app's icon, https
        #[arg(long, value_name = "URL", value_parser = |text: &str| image_url(text))]
        icon_url: Option<String>,
        /// Create a platform app: its users' tokens open all apps
        #[arg(long)]
        platform: bool,
    },
    /// List all apps
    List,
    /// Enable an app again
    Enable {
        /// The app's id
        #[arg(value_parser = |text: &str| AppId::parse(text))]
        app_id: AppId,
    },
    /// Disable an app: refuse its requests and close its sockets
    Disable {
        /// The app's id
        #[arg(value_parser = |text: &str| AppId::parse(text))]
        app_id: AppId,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Create a further key and print it, which is shown once
    Create {
        /// The app's id
        #[arg(value_parser = |text: &str| AppId::parse(text))]
        app_id: AppId,
    },
    /// List an app's keys
    List {
        /// The app's id
        #[arg(value_parser = |text: &str| AppId::parse(text))]
        app_id: AppId,
    },
    /// Revoke a key and close its sockets
    Revoke {
        /// The key's id, as key list prints it
        #[arg(value_parser = parse_key_id)]
        key_id: KeyId,
    },
}

pub(super) async fn run_app(command: AppCommand, config: &Config, as_json: bool) -> Result<(), CliError> {
    let store = match &command {
        AppCommand::Create { .. } => store_or_new(config).await?,
        _ => existing_store(config).await?,
    };
    let apps = Apps::new(store);
    match command {
        AppCommand::Create { app_id, name, icon_url, platform } => {
            let app = NewApp { id: app_id, name, icon_url, is_platform: platform, limits: Default::default() };
            let (app, key) = apps.create(app, &audit()).await?;
            if as_json {
                say(
                    json!({"app_id": app.id, "name": app.name, "is_platform": app.is_platform, "api_key": key.expose()}),
                )?;
            } else {
                say(key.expose())?;
            }
        }
        AppCommand::List => {
            let apps = apps.list().await?;
            if as_json {
                let rows: Vec<_> = apps.iter().map(|app| {
                    json!({"app_id": app.id, "name": app.name, "icon_url": app.icon_url, "is_active": app.is_active, "is_platform": app.is_platform, "created_at": app.created_at})
                }).collect();
                say(json!({"apps": rows}))?;
            } else {
                for app in apps {
                    let state = if app.is_active { "active" } else { "disabled" };
                    let kind = if app.is_platform { "platform" } else { "app" };
                    say(format_args!("{}\t{kind}\t{state}\t{}", app.id, app.name))?;
                }
            }
        }
        AppCommand::Enable { app_id } => set_active(&apps, &app_id, true, as_json).await?,
        AppCommand::Disable { app_id } => set_active(&apps, &app_id, false, as_json).await?,
    }
    Ok(())
}

async fn set_active(apps: &Apps, app: &AppId, is_active: bool, as_json: bool) -> Result<(), CliError> {
    let change = AppChange { is_active: Some(is_active), ..AppChange::default() };
    apps.update(app, &change, &audit()).await.map_err(|error| no_such("app", app, error))?;
    if as_json {
        say(json!({"app_id": app, "is_active": is_active}))?;
    }
    Ok(())
}

pub(super) async fn run_key(command: KeyCommand, config: &Config, as_json: bool) -> Result<(), CliError> {
    let apps = Apps::new(existing_store(config).await?);
    match command {
        KeyCommand::Create { app_id } => {
            let made = apps.create_key(&app_id, &audit()).await.map_err(|error| no_such("app", &app_id, error))?;
            if as_json {
                say(json!({"key_id": made.key.id, "app_id": app_id, "api_key": made.secret.expose()}))?;
            } else {
                say(made.secret.expose())?;
            }
        }
        KeyCommand::List { app_id } => {
            let keys = apps.keys(&app_id).await.map_err(|error| no_such("app", &app_id, error))?;
            if as_json {
                let rows: Vec<_> = keys.iter().map(|key| {
                    json!({"key_id": key.id, "prefix": key.prefix, "created_at": key.created_at, "last_used_at": key.last_used_at, "revoked_at": key.revoked_at})
                }).collect();
                say(json!({"keys": rows}))?;
            } else {
                for key in keys {
                    let state = if key.revoked_at.is_some() { "revoked" } else { "active" };
                    let used = key.last_used_at.map_or_else(|| "never".to_owned(), |at| at.to_string());
                    say(format_args!("{}\t{}…\t{state}\tlast used {used}", key.id, key.prefix))?;
                }
            }
        }
        KeyCommand::Revoke { key_id } => {
            apps.revoke_key(key_id, &audit()).await.map_err(|error| no_such("key", &key_id, error))?;
            if as_json {
                say(json!({"key_id": key_id, "revoked": true}))?;
            }
        }
    }
    Ok(())
}

fn no_such(what: &str, id: &dyn std::fmt::Display, error: HubError) -> CliError {
    match error {
        HubError::NotFound => CliError::Failed(format!("there is no {what} {id}")),
        other => other.into(),
    }
}

fn parse_key_id(text: &str) -> Result<KeyId, Invalid> {
    text.parse().map(KeyId).map_err(|_| Invalid("must be a key's id, as key list prints it".to_owned()))
}
