//! The command line (contract §9). Exit status 0, 1 for a failure at run time, 2 for wrong usage or configuration.

mod apps;
mod archive;
mod config;
mod doctor;
mod health;
mod send;
mod serve;
mod shell;
mod stop;
mod tokens;
mod watch;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{Config, ConfigError, Flags, Loaded, Secrets},
    error_chain::error_chain as chain,
    hub::HubError,
    server::{End, ServeError, open_store},
    store::{Audit, Store, StoreError},
    telemetry::{self, Traces},
    workers::ArchiverError,
};

/// Further text of the manual.
const MORE: &str = "\
Environment:
  ORIVA_HUB__SECTION__KEY  a setting, such as ORIVA_HUB__SERVER__BIND; lists are comma separated
  DATABASE_URL, REDIS_URL  database.url and redis.url
  RUST_LOG                 log.level
  NAME_FILE                a file with the value of DATABASE_URL, REDIS_URL or a secret of auth, instead of NAME
  ORIVA_HUB_TOKEN          the credential of watch, publish and notify
  ORIVA_HUB_APP            the app of publish and notify
  OTEL_*                   what the exporter of traces heeds

Flags win over the environment, that over the file of --config, that over the defaults; `config show` says what counts.

Files:
  ./data/hub.db            the embedded store, where nothing else is configured
  ./data/hub.secrets.toml  its secrets, made at the first start; admin_key opens /api/v1/admin

Exit status:
  0  done
  1  it failed while it ran
  2  wrong usage or settings";

/// The realtime hub that a platform of many apps runs for its users.
#[derive(Debug, Parser)]
#[command(name = "oriva-hub", version = env!("ORIVA_HUB_VERSION"), after_long_help = MORE)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

#[derive(Debug, Args)]
struct Global {
    /// Also read settings from this file
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// sqlite://PATH or postgres://USER:PASSWORD@HOST/NAME
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// URL of the Redis that connects several nodes
    #[arg(long, global = true, value_name = "URL")]
    redis_url: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node (the default)
    Serve(serve::ServeArgs),
    /// Apply pending migrations to the store
    Migrate(serve::MigrateArgs),
    /// Manage apps
    #[command(subcommand)]
    App(apps::AppCommand),
    /// Manage API keys
    #[command(subcommand)]
    Key(apps::KeyCommand),
    /// Create tokens for users
    #[command(subcommand)]
    Token(tokens::TokenCommand),
    /// Archive old rows now, as the hub does at midnight UTC
    Archive(archive::ArchiveArgs),
    /// Print a stream's frames, one JSON object for each line; reconnects and resumes by itself
    Watch(watch::WatchArgs),
    /// Publish an event, or one for each line of standard input
    Publish(send::PublishArgs),
    /// Create a notification, or one for each line of standard input
    Notify(send::NotifyArgs),
    /// Ask a node whether it serves requests; exit with 1 if it does not
    Health(health::HealthArgs),
    /// Look at store, Redis, secrets, files and address, and say what to do; exit with 1 if something is bad
    Doctor(doctor::DoctorArgs),
    /// Show or check the settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print the OpenAPI document, in YAML or with --json in JSON
    Openapi,
    /// Print completions for a shell
    Completions(shell::CompletionsArgs),
    /// Print the manual page, or write one for each command into a folder
    Man(shell::ManArgs),
}

/// Why a command failed. It decides the exit status.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Url(_) => Self::Config(ConfigError(chain(&error))),
            error => Self::Failed(chain(&error)),
        }
    }
}

impl From<ArchiverError> for CliError {
    fn from(error: ArchiverError) -> Self {
        Self::Failed(chain(&error))
    }
}

impl From<HubError> for CliError {
    fn from(error: HubError) -> Self {
        Self::Failed(chain(&error))
    }
}

impl From<ServeError> for CliError {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Config(error) => Self::Config(error),
            ServeError::Store(error @ StoreError::Url(_)) => error.into(),
            other => Self::Failed(chain(&other)),
        }
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = actix_rt::System::new().block_on(run(cli));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            match error {
                CliError::Config(_) | CliError::Usage(_) => ExitCode::from(2),
                CliError::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(cli: Cli) -> Result<(), CliError> {
    let Cli { command, global, serve } = cli;
    let command = command.unwrap_or(Command::Serve(serve));
    let command = match command {
        Command::Watch(args) => return watch::run(args).await,
        Command::Health(args) => return health::run(&args, global.json).await,
        Command::Publish(args) => return send::publish(args, global.json).await,
        Command::Notify(args) => return send::notify(args, global.json).await,
        Command::Completions(args) => {
            return shell::completions(&args);
        }
        Command::Man(args) => return shell::man(&args),
        Command::Openapi => return shell::openapi(global.json),
        other => other,
    };
    let bind = match &command {
        Command::Serve(args) => args.bind.clone(),
        _ => None,
    };
    let loaded = Loaded::load(&Flags {
        config: global.config,
        database_url: global.database_url,
        redis_url: global.redis_url,
        bind,
    })?;
    let json = global.json;
    match command {
        Command::Serve(args) => {
            let logging = telemetry::init(&loaded.config.log);
            let traces = Traces::start(loaded.config.telemetry.otlp_endpoint.as_deref())?;
            let served = serve::run(&loaded.config, &args).await;
            let _ = tokio::task::spawn_blocking(|| traces.finish()).await;
            drop(logging);
            match served? {
                End::Stopped => Ok(()),
                End::EpochChanged => {
                    stop::re_exec().map(|never| match never {}).map_err(|error| CliError::Failed(error.to_string()))
                }
            }
        }
        Command::Migrate(args) => serve::migrate(&loaded.config, &args, json).await,
        Command::App(command) => apps::run_app(command, &loaded.config, json).await,
        Command::Key(command) => apps::run_key(command, &loaded.config, json).await,
        Command::Token(command) => tokens::run(command, &loaded.config, json).await,
        Command::Archive(args) => archive::run(&args, &loaded.config, json).await,
        Command::Config(command) => config::run(&command, &loaded, json).await,
        Command::Doctor(args) => doctor::run(&args, &loaded.config, json).await,
        Command::Watch(_)
        | Command::Publish(_)
        | Command::Notify(_)
        | Command::Health(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Openapi => Ok(()),
    }
}

/// The store for a command. It must exist, and its schema must be up to date.
async fn existing_store(config: &Config) -> Result<Arc<dyn Store>, CliError> {
    must_exist(config)?;
    let store = open_store(config).await?;
    store.check_schema().await?;
    Ok(store)
}

/// Refuses an embedded store that does not exist: a command in the wrong folder would create one.
fn must_exist(config: &Config) -> Result<(), CliError> {
    let Some(file) = config.embedded_file().filter(|file| !file.exists()) else { return Ok(()) };
    Err(CliError::Config(ConfigError(format!(
        "database.url: there is no {}; the hub makes it when it first starts, and so does oriva-hub app create",
        file.display()
    ))))
}

/// As [`existing_store`], but creates a missing embedded store with its secrets.
async fn store_or_new(config: &Config) -> Result<Arc<dyn Store>, CliError> {
    let store = open_store(config).await?;
    if config.is_embedded() {
        Secrets::resolve(config)?;
    }
    store.check_schema().await?;
    Ok(store)
}

/// Prints a line of output.
///
/// # Errors
/// Where standard output is closed.
fn say(line: impl std::fmt::Display) -> Result<(), CliError> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{line}").map_err(|error| CliError::Failed(format!("standard output: {error}")))
}

/// Prints a line to standard error. A failure to write is ignored.
fn print_error(line: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "oriva-hub: {line}");
}

/// Pauses between attempts at a hub that is away: longer and longer, up to 20 s.
fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default().with_jitter().with_max_delay(Duration::from_secs(20)).without_max_times().build()
}

/// The actor that audit rows name for a command.
fn audit() -> Audit {
    Audit { actor: "cli".to_owned(), ip: None }
}
