//! `health`: asks a node whether it serves requests, for containers and scripts without an HTTP client.

use std::time::Duration;

use clap::Args;
use reqwest::{Client, Url};
use serde_json::Value;

use super::{CliError, chain, say};

#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// URL of the node
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Seconds to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    timeout: u64,
}

/// Requests a node's `/readyz` and prints its answer.
///
/// # Errors
/// Where the node does not answer in time, or says that it does not serve requests.
pub(super) async fn run(args: &HealthArgs, as_json: bool) -> Result<(), CliError> {
    let unhealthy = |error: reqwest::Error| CliError::Failed(chain(&error.without_url()));
    let mut url = Url::parse(&args.url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| CliError::Usage(format!("--url {:?} must be http://HOST or https://HOST", args.url)))?;
    let path = format!("{}/readyz", url.path().trim_end_matches('/'));
    url.set_path(&path);
    crate::crypto::install();
    // Without a proxy: this asks the node itself.
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(args.timeout)).build().map_err(unhealthy)?;
    let answer = client.get(url).send().await.map_err(unhealthy)?;
    let http = answer.status();
    let probe: Value = serde_json::from_slice(&answer.bytes().await.map_err(unhealthy)?).unwrap_or_default();
    let Some(status) = probe["status"].as_str() else {
        return Err(CliError::Failed(format!(
            "HTTP {http} and no word of its readiness: is --url a node of oriva-hub?"
        )));
    };
    let said = match probe["failing"].as_str() {
        Some(part) => format!("{status}: {part}"),
        None => status.to_owned(),
    };
    if !http.is_success() {
        return Err(CliError::Failed(said));
    }
    if as_json { say(&probe) } else { say(said) }
}
