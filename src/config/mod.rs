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
    /// How the hub is reached.
    pub server: Server,
    /// Where everything is stored.
    pub database: Database,
    /// What the nodes of a cluster share.
    pub redis: Redis,
    /// Credentials and secrets.
    pub auth: Auth,
    /// How many requests a caller may make.
    pub rate_limits: RateLimits,
    /// WebSockets.
    pub stream: Stream,
    /// Deliveries to apps.
    pub webhooks: Webhooks,
    /// Notifications that end.
    pub expiry: Expiry,
    /// How long rows are kept.
    pub retention: Retention,
    /// What goes to standard error.
    pub log: Log,
    /// Where traces go.
    pub telemetry: Telemetry,
}

/// Section `server`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port to listen on.
    #[serde(deserialize_with = "address")]
    pub bind: SocketAddr,
    /// 0: one for each core.
    pub workers: usize,
    /// Seconds for which a hub that is told to stop goes on serving, not ready.
    pub drain_delay_seconds: u64,
    /// Seconds that a stopping hub has for its requests and sockets.
    pub shutdown_timeout_seconds: u64,
    /// Greatest size of a request's body in bytes.
    pub max_body_bytes: usize,
    /// Bytes of answers that clients have not read yet, beyond which further reads are refused.
    pub max_pending_answer_bytes: usize,
    /// Networks whose `X-Forwarded-For` counts.
    #[serde(deserialize_with = "list")]
    pub trusted_proxies: Vec<String>,
    /// TLS of the hub itself.
    pub tls: Tls,
    /// What browsers may do.
    pub cors: Cors,
}

/// Section `server.tls`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate and its chain.
    pub cert: Option<PathBuf>,
    /// PEM file with the private key.
    pub key: Option<PathBuf>,
}

/// Section `server.cors`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Origins of pages that may call the hub; `*` for all.
    #[serde(deserialize_with = "list")]
    pub allowed_origins: Vec<String>,
}

/// Section `database`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// A SQLite file or a PostgreSQL server.
    pub url: String,
    /// Connections that this node opens at most.
    pub max_connections: u32,
}

/// Section `redis`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// One server or a cluster. Without it nodes hear of each other's events by resyncs alone.
    pub url: Option<SecretString>,
    /// The certificate of the authority that signs the server's, in PEM.
    pub ca_file: Option<PathBuf>,
}

/// Section `auth`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Signs tokens; made and kept by an embedded hub where absent.
    pub token_secret: Option<SecretString>,
    /// Opens the admin routes; made and kept by an embedded hub where absent.
    pub admin_key: Option<SecretString>,
    /// Seals secrets of webhooks; made and kept by an embedded hub where absent.
    pub encryption_key: Option<SecretString>,
    /// Earlier values of `encryption_key`, for secrets that are still sealed under them.
    #[serde(deserialize_with = "list")]
    pub previous_encryption_keys: Vec<String>,
}

/// Section `rate_limits`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    /// Whether requests are counted.
    pub enabled: bool,
    /// Events published, by app.
    pub publish: RateLimit,
    /// Reads and changes of notifications, and other reads, by app or user.
    pub read: RateLimit,
    /// Notifications created, by app.
    pub notify: RateLimit,
    /// Requests about webhooks, by app.
    pub webhooks: RateLimit,
}

/// A number of requests in a time.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests that pass in a window.
    pub limit: u32,
    /// Length of the window in seconds.
    pub window_seconds: u64,
}

/// Section `stream`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Sockets that a user or an app may hold at once, over all nodes.
    pub max_connections: usize,
    /// Seconds between two heartbeats.
    pub heartbeat_seconds: u64,
    /// Greatest size of a client's message in bytes.
    pub max_frame_bytes: usize,
    /// Bytes that may wait for a slow socket before it is closed.
    pub max_backlog_bytes: usize,
    /// Whether long messages are compressed for those who agree to it.
    pub compression: bool,
    /// Size in bytes from which a message is compressed.
    pub compression_min_bytes: usize,
}

/// Section `webhooks`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhooks {
    /// Seconds that an endpoint has for its answer.
    pub timeout_seconds: u64,
    /// Failures in a row that disable a webhook.
    pub disable_after_failures: u32,
    /// Greatest number of webhooks of one app.
    pub max_per_app: u32,
    /// Requests to one endpoint at once, from this node.
    pub concurrency_per_endpoint: usize,
    /// Whether endpoints on loopback may be plain HTTP.
    pub allow_http: bool,
    /// Private networks that may be called over HTTPS.
    #[serde(deserialize_with = "list")]
    pub allowed_networks: Vec<String>,
    /// Name servers for the names of endpoints; none for the system's.
    #[serde(deserialize_with = "list")]
    pub name_servers: Vec<String>,
}

/// Section `expiry`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expiry {
    /// Greatest time in seconds between two looks for what ends.
    pub max_interval_seconds: u64,
    /// Notifications that one transaction ends.
    pub batch: u32,
}

/// Section `retention`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Days that events, notifications and deliveries stay.
    pub days: u32,
    /// Days that attempts stay in the log.
    pub delivery_log_days: u32,
    /// Days that the audit log stays.
    pub audit_days: u32,
    /// Rows between two pauses of a pass.
    pub batch: u32,
    /// Where archived rows go; without it they stay in the archive's tables.
    pub archive_url: Option<String>,
}

/// Section `log`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// For people or for programs.
    pub format: LogFormat,
    /// Whether each event has a line.
    pub events: bool,
    /// The least level that is written, or a filter by module.
    pub level: String,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object for each line.
    Json,
}

/// Section `telemetry`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// URL of a collector that takes OTLP over HTTP.
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

/// An address with a port, as text.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        let rule = "must be an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080";
        serde::de::Error::custom(match text.strip_prefix("localhost:") {
            Some(port) => format!("{text:?} {rule}: for localhost write 127.0.0.1:{port}"),
            None => format!("{text:?} {rule}"),
        })
    })
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
