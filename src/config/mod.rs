//! Settings: read from flags, environment and files, checked, and shown with their sources (contract §9).
//! `config/default.toml` is both their documentation and their defaults.

mod check;
mod secrets;
mod show;
mod sources;

use std::{net::SocketAddr, path::PathBuf};

use secrecy::SecretString;
use serde::{Deserialize, Deserializer};

pub use secrets::{Secrets, matches as secret_matches};
pub use show::{Setting, masked_url};
pub use sources::{Flags, Loaded};

/// An invalid setting: one line that names it and says what it must be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// All settings. Keys and defaults are those of `config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub database: Database,
    pub redis: Redis,
    pub auth: Auth,
    pub rate_limits: RateLimits,
    pub stream: Stream,
    pub webhooks: Webhooks,
    pub expiry: Expiry,
    pub retention: Retention,
    pub log: Log,
    pub telemetry: Telemetry,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub bind: SocketAddr,
    /// 0: one for each core.
    pub workers: usize,
    pub shutdown_timeout_seconds: u64,
    pub max_body_bytes: usize,
    #[serde(deserialize_with = "list")]
    pub trusted_proxies: Vec<String>,
    pub tls: Tls,
    pub cors: Cors,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    #[serde(deserialize_with = "list")]
    pub allowed_origins: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    pub url: String,
    pub max_connections: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    pub url: Option<SecretString>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    pub token_secret: Option<SecretString>,
    pub admin_key: Option<SecretString>,
    pub encryption_key: Option<SecretString>,
    /// Earlier values of `encryption_key`, for secrets that are still sealed under them.
    #[serde(deserialize_with = "list")]
    pub previous_encryption_keys: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    pub enabled: bool,
    pub publish: RateLimit,
    pub read: RateLimit,
    pub notify: RateLimit,
    pub webhooks: RateLimit,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    pub limit: u32,
    pub window_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    pub max_connections: usize,
    pub heartbeat_seconds: u64,
    pub max_frame_bytes: usize,
    pub max_backlog_bytes: usize,
    pub compression: bool,
    pub compression_min_bytes: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhooks {
    pub timeout_seconds: u64,
    pub disable_after_failures: u32,
    pub concurrency_per_endpoint: usize,
    pub allow_http: bool,
    #[serde(deserialize_with = "list")]
    pub allowed_networks: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expiry {
    pub max_interval_seconds: u64,
    pub batch: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    pub days: u32,
    pub delivery_log_days: u32,
    pub audit_days: u32,
    pub batch: u32,
    pub archive_url: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    pub level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Pretty,
    Json,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    pub otlp_endpoint: Option<String>,
}

impl Config {
    /// Whether the store is SQLite.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.database.url.starts_with("sqlite:")
    }

    /// The file of an SQLite store.
    #[must_use]
    pub fn embedded_file(&self) -> Option<PathBuf> {
        let path = self.database.url.strip_prefix("sqlite:")?;
        let path = path.strip_prefix("//").unwrap_or(path);
        Some(path.split('?').next().unwrap_or(path).into())
    }

    /// Number of HTTP workers, and of shards.
    #[must_use]
    pub fn threads(&self) -> usize {
        match self.server.workers {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            workers => workers,
        }
    }
}

/// A list, or a comma-separated string from the environment.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Form::deserialize(deserializer)? {
        Form::List(items) => items,
        Form::Text(text) => text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect(),
    })
}
