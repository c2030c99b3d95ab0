//! What an operator would look at, each with one line that says what to do: for `doctor` and `config check --connect`.

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use oriva_hub_actors::model::Timestamp;
use reqwest::Url;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::{nodes, tls};
use crate::{
    config::{Config, Secrets},
    error_chain::error_chain,
    redis_client::RedisClient,
    store::{Store, StoreError, StoreFacts, postgres::PostgresStore, sqlite::SqliteStore},
};

/// How long one part may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Fewer open files than this are few.
const FEW_FILES: u64 = 65_536;
/// A certificate that ends within this time is to be renewed.
const RENEWAL: Duration = Duration::from_secs(14 * 24 * 3600);
/// From this difference on tokens are judged wrongly.
const FAR_OFF_MS: i64 = 10_000;

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is to be done.
    Good,
    /// It works, and should be looked at.
    Warning,
    /// A hub does not work so.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What it is.
    pub what: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found, and what to do.
    pub says: String,
}

/// The findings so far.
#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, what: &'static str, verdict: Verdict, says: impl Into<String>) {
        self.0.push(Finding { what, verdict, says: says.into() });
    }

    /// Returns what there is where it is good.
    fn check<T>(&mut self, what: &'static str, outcome: Result<T, impl std::fmt::Display>) -> Option<T> {
        outcome.map_err(|error| self.add(what, Verdict::Bad, error.to_string())).ok()
    }
}

/// Looks at everything that a hub with these settings needs. `public`: where its clients reach it.
pub async fn examine(config: &Config, public: Option<&Url>) -> Vec<Finding> {
    let mut report = Report::default();
    files(&mut report);
    secrets(config, &mut report);
    certificate(config, &mut report);
    store(config, &mut report).await;
    redis(config, &mut report).await;
    if let Some(url) = public {
        address(url, &mut report).await;
    }
    report.0
}

fn files(report: &mut Report) {
    match rlimit::Resource::NOFILE.get() {
        Ok((_, hard)) if hard < FEW_FILES => report.add(
            "open files",
            Verdict::Warning,
            format!("{hard} allowed, and every socket is one: raise it (ulimit -n, or LimitNOFILE= of the service)"),
        ),
        Ok((_, hard)) => report.add("open files", Verdict::Good, format!("{hard} allowed")),
        Err(error) => report.add("open files", Verdict::Warning, format!("unknown: {error}")),
    }
}

fn secrets(config: &Config, report: &mut Report) {
    if report.check("secrets", Secrets::check(config)).is_none() {
        return;
    }
    let Some(file) = Secrets::file(config) else { return report.add("secrets", Verdict::Good, "all are set") };
    let name = file.display();
    match file.metadata() {
        Ok(about) if about.permissions().mode() & 0o077 != 0 => {
            report.add("secrets", Verdict::Warning, format!("others may read {name}: chmod 600 {name}"));
        }
        Ok(_) => report.add("secrets", Verdict::Good, format!("kept in {name}: back it up with the store")),
        Err(_) => report.add("secrets", Verdict::Good, format!("will be made in {name} at the first start")),
    }
}

fn certificate(config: &Config, report: &mut Report) {
    let Some(path) = &config.server.tls.cert else { return };
    if report.check("certificate", tls::load(&config.server.tls)).is_none() {
        return;
    }
    match end_of(path) {
        Some(end) => {
            let left = end - Timestamp::now().unix_ms() / 1000;
            let days = left / 86_400;
            match left {
                ..=0 => report.add("certificate", Verdict::Bad, "it has ended: renew it, and restart the hub"),
                left if left.unsigned_abs() < RENEWAL.as_secs() => {
                    report.add(
                        "certificate",
                        Verdict::Warning,
                        format!("it ends in {days} days: renew it, and restart the hub"),
                    );
                }
                _ => report.add("certificate", Verdict::Good, format!("good for {days} days")),
            }
        }
        None => report.add("certificate", Verdict::Warning, "its end cannot be read"),
    }
}

/// When the first certificate of a file ends, in seconds since 1970.
fn end_of(path: &Path) -> Option<i64> {
    let certificate = CertificateDer::from_pem_file(path).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

async fn store(config: &Config, report: &mut Report) {
    let what = "store";
    let store: Box<dyn Store> = if let Some(file) = config.embedded_file() {
        if !file.exists() {
            let wal = file.with_file_name(format!("{}-wal", file.file_name().unwrap_or_default().to_string_lossy()));
            if wal.exists() {
                let says = format!("{} is missing, and {} is there: put it back", file.display(), wal.display());
                return report.add(what, Verdict::Bad, says);
            }
            return report.add(what, Verdict::Good, format!("{} will be made at the first start", file.display()));
        }
        match SqliteStore::open(&config.database.url, 1).await {
            Ok(store) => Box::new(store),
            Err(error) => return report.add(what, Verdict::Bad, error_chain(&StoreError::File(file, Box::new(error)))),
        }
    } else {
        match PostgresStore::new(&config.database.url, 2) {
            Ok(store) => Box::new(store),
            Err(error) => return report.add(what, Verdict::Bad, error_chain(&error)),
        }
    };
    let looked = tokio::time::timeout(TIMEOUT, async {
        match store.check_schema().await {
            // An embedded store is brought up to date by the hub itself.
            Err(StoreError::Outdated) if config.is_embedded() => {}
            checked => checked?,
        }
        let facts = store.facts(config.database.max_connections).await?;
        store.try_writing().await?;
        Ok::<StoreFacts, StoreError>(facts)
    });
    match looked.await {
        Ok(Ok(StoreFacts { server, now, concerns })) => {
            report.add(what, Verdict::Good, format!("{server}, takes writes"));
            for concern in concerns {
                report.add(what, Verdict::Warning, concern);
            }
            if let Some(now) = now {
                let ahead = Timestamp::now().unix_ms() - now.unix_ms();
                let (verdict, advice) = if ahead.abs() < FAR_OFF_MS {
                    (Verdict::Good, "")
                } else {
                    (Verdict::Bad, ": set this machine's clock (NTP)")
                };
                report.add("clock", verdict, format!("{:.1} s ahead of the database's{advice}", ahead as f64 / 1000.0));
            }
        }
        Ok(Err(error)) => report.add(what, Verdict::Bad, error_chain(&error)),
        Err(_) => report.add(what, Verdict::Bad, format!("no answer within {} s", TIMEOUT.as_secs())),
    }
    store.close().await;
}

async fn redis(config: &Config, report: &mut Report) {
    let Some(url) = &config.redis.url else { return };
    let Some(authority) = report.check("redis", nodes::redis_authority(config)) else { return };
    let client = match RedisClient::new(url.expose_secret(), authority, "doctor".into()) {
        Ok(client) => client,
        Err(error) => return report.add("redis", Verdict::Bad, format!("redis.url: {}", error.category())),
    };
    match tokio::time::timeout(TIMEOUT, client.examine()).await {
        Ok(Ok(facts)) => {
            report.add(
                "redis",
                Verdict::Good,
                format!("{}, every command that the hub needs is allowed", facts.server),
            );
            for concern in facts.concerns {
                report.add("redis", Verdict::Warning, concern);
            }
        }
        Ok(Err(error)) => report.add("redis", Verdict::Bad, error),
        Err(_) => report.add("redis", Verdict::Bad, format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

/// Asks the hub as its clients do: by name, over TLS, through whatever stands before it.
async fn address(url: &Url, report: &mut Report) {
    let what = "address";
    crate::crypto::install();
    let host = url.host_str().unwrap_or_default().to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let addresses = match tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await {
        Ok(addresses) => addresses.map(|addr| addr.ip().to_string()).collect::<Vec<_>>().join(", "),
        Err(error) => return report.add(what, Verdict::Bad, format!("{host} has no address: {error}")),
    };
    let ready = format!("{}/readyz", url.as_str().trim_end_matches('/'));
    let client = match reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build() {
        Ok(client) => client,
        Err(error) => return report.add(what, Verdict::Bad, error.to_string()),
    };
    match client.get(ready).send().await {
        Ok(answer) if answer.status().is_success() => {
            let kind = if url.scheme() == "https" { "over TLS" } else { "without TLS" };
            report.add(what, Verdict::Good, format!("{host} ({addresses}) answers {kind}, and is ready"));
        }
        Ok(answer) => {
            report.add(what, Verdict::Bad, format!("{host} ({addresses}) answers HTTP {} to /readyz", answer.status()));
        }
        Err(error) => {
            report.add(what, Verdict::Bad, format!("{host} ({addresses}): {}", error_chain(&error.without_url())));
        }
    }
}
