//! Rules of settings that their types do not express.

use std::net::SocketAddr;

use secrecy::{ExposeSecret, SecretString};

use super::{Config, ConfigError, secrets};
use crate::{archive, redis_client};

/// # Errors
/// The first setting that breaks its rule, and the rule.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let rule = |holds: bool, text: &str| if holds { Ok(()) } else { Err(ConfigError(text.to_owned())) };
    let server = &config.server;
    let is_collector = |url: &String| {
        ::url::Url::parse(url).is_ok_and(|url| {
            let is_bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
            matches!(url.scheme(), "http" | "https") && is_bare && url.fragment().is_none()
        })
    };
    rule(
        config.telemetry.otlp_endpoint.as_ref().is_none_or(is_collector),
        "telemetry.otlp_endpoint must be the http or https address of an OTLP collector, such as http://127.0.0.1:4318, without \
         credentials or query (OTEL_EXPORTER_OTLP_HEADERS is for those)",
    )?;
    rule(server.workers <= 1024, "server.workers must be at most 1024 (0: one a core)")?;
    rule(
        (1024..=64 * 1024 * 1024).contains(&server.max_body_bytes),
        "server.max_body_bytes must be between 1024 and 67108864",
    )?;
    rule(server.max_pending_answer_bytes >= 1 << 20, "server.max_pending_answer_bytes must be at least 1048576")?;
    rule(server.drain_delay_seconds <= 3600, "server.drain_delay_seconds must be at most 3600")?;
    rule(server.shutdown_timeout_seconds <= 3600, "server.shutdown_timeout_seconds must be at most 3600")?;
    are_networks("server.trusted_proxies", &server.trusted_proxies)?;
    rule(server.tls.cert.is_some() == server.tls.key.is_some(), "server.tls.cert and server.tls.key go together")?;
    for origin in &server.cors.allowed_origins {
        let is_origin = origin == "*"
            || origin.split_once("://").is_some_and(|(scheme, host)| {
                ["http", "https"].contains(&scheme) && !host.is_empty() && !host.contains('/')
            });
        rule(
            is_origin,
            &format!("server.cors.allowed_origins: {origin:?} must be an origin such as https://app.example.org, or *"),
        )?;
    }

    let url = &config.database.url;
    rule(!url.is_empty(), "database.url must be set: DATABASE_URL, --database-url or the file of --config gives it")?;
    let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
    rule(is_postgres || config.is_embedded(), "database.url must begin with sqlite: or postgres://")?;
    rule(
        config.embedded_file().is_none_or(|file| file.file_name().is_some()),
        "database.url must name a file, such as sqlite://data/hub.db",
    )?;
    rule(
        !url.contains(":memory:") && !url.contains("mode=memory"),
        "database.url must name a file: a store in memory loses what was acknowledged",
    )?;
    rule(
        config.redis.url.is_none() || !config.is_embedded(),
        "redis.url connects several nodes, which share a PostgreSQL, but database.url is SQLite: set DATABASE_URL, or leave \
         redis.url out",
    )?;
    rule(
        config.redis.ca_file.is_none()
            || config.redis.url.as_ref().is_some_and(|url| url.expose_secret().starts_with("rediss://")),
        "redis.ca_file is for a redis.url that begins with rediss://",
    )?;
    rule((1..=1000).contains(&config.database.max_connections), "database.max_connections must be between 1 and 1000")?;
    let is_redis = |url: &SecretString| {
        ["redis://", "rediss://"].iter().any(|scheme| url.expose_secret().starts_with(scheme))
            && redis_client::is_url(url.expose_secret())
    };
    rule(
        config.redis.url.as_ref().is_none_or(is_redis),
        "redis.url must be redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// for TLS",
    )?;

    let long = |secret: &Option<SecretString>| secret.as_ref().is_none_or(|secret| secret.expose_secret().len() >= 32);
    rule(long(&config.auth.token_secret), "auth.token_secret must be at least 32 characters")?;
    rule(long(&config.auth.admin_key), "auth.admin_key must be at least 32 characters")?;
    let key_is_good =
        config.auth.encryption_key.as_ref().is_none_or(|key| secrets::is_encryption_key(key.expose_secret()));
    rule(key_is_good, "auth.encryption_key must be base64 of 32 bytes")?;

    let previous_are_good = config.auth.previous_encryption_keys.iter().all(|key| secrets::is_encryption_key(key));
    rule(previous_are_good, "auth.previous_encryption_keys must each be base64 of 32 bytes")?;

    let limits = &config.rate_limits;
    for (name, limit) in
        [("publish", limits.publish), ("read", limits.read), ("notify", limits.notify), ("webhooks", limits.webhooks)]
    {
        rule(limit.limit >= 1, &format!("rate_limits.{name}.limit must be at least 1"))?;
        rule(
            (1..=86_400).contains(&limit.window_seconds),
            &format!("rate_limits.{name}.window_seconds must be between 1 and 86400"),
        )?;
    }

    let stream = &config.stream;
    rule((1..=100_000).contains(&stream.max_connections), "stream.max_connections must be between 1 and 100000")?;
    rule((1..=3600).contains(&stream.heartbeat_seconds), "stream.heartbeat_seconds must be between 1 and 3600")?;
    rule(
        (1024..=16 * 1024 * 1024).contains(&stream.max_frame_bytes),
        "stream.max_frame_bytes must be between 1024 and 16777216",
    )?;
    // The backlog must hold two of the largest events, so that one waiting event does not close the socket.
    rule(
        (163_840..=1024 * 1024 * 1024).contains(&stream.max_backlog_bytes),
        "stream.max_backlog_bytes must be between 163840 and 1073741824",
    )?;

    let webhooks = &config.webhooks;
    rule((1..=60).contains(&webhooks.timeout_seconds), "webhooks.timeout_seconds must be between 1 and 60")?;
    rule(webhooks.disable_after_failures >= 1, "webhooks.disable_after_failures must be at least 1")?;
    rule(webhooks.max_per_app >= 1, "webhooks.max_per_app must be at least 1")?;
    rule(
        (1..=1000).contains(&webhooks.concurrency_per_endpoint),
        "webhooks.concurrency_per_endpoint must be between 1 and 1000",
    )?;
    are_networks("webhooks.allowed_networks", &webhooks.allowed_networks)?;
    for server in &webhooks.name_servers {
        rule(
            server.parse::<SocketAddr>().is_ok(),
            &format!("webhooks.name_servers: {server:?} must be an address and a port, such as 10.0.0.2:53"),
        )?;
    }
    rule(
        (1..=86_400).contains(&config.expiry.max_interval_seconds),
        "expiry.max_interval_seconds must be between 1 and 86400",
    )?;
    rule((1..=100_000).contains(&config.expiry.batch), "expiry.batch must be between 1 and 100000")?;
    rule(config.retention.days >= 1, "retention.days must be at least 1")?;
    rule(config.retention.delivery_log_days >= 1, "retention.delivery_log_days must be at least 1")?;
    rule(config.retention.audit_days >= 1, "retention.audit_days must be at least 1")?;
    rule(
        config.retention.archive_url.as_deref().is_none_or(archive::is_url),
        &format!("retention.archive_url must be {}", archive::RULE),
    )?;
    rule((1..=1_000_000).contains(&config.retention.batch), "retention.batch must be between 1 and 1000000")?;
    let level = &config.log.level;
    // A single word would be taken as the name of a target and silence all others.
    let has_no_stray_word = level.split(',').all(|part| {
        part.contains(['=', '[']) || part.trim().parse::<tracing_subscriber::filter::LevelFilter>().is_ok()
    });
    let is_filter = has_no_stray_word && tracing_subscriber::EnvFilter::try_new(level).is_ok();
    rule(is_filter, "log.level must be error, warn, info, debug, trace or a filter such as info,oriva_hub=debug")
}

fn are_networks(key: &str, networks: &[String]) -> Result<(), ConfigError> {
    match networks.iter().find(|network| network.parse::<ipnet::IpNet>().is_err()) {
        Some(network) => {
            Err(ConfigError(format!("{key}: {network:?} must be an address with a prefix length, such as 10.1.0.0/16")))
        }
        None => Ok(()),
    }
}
