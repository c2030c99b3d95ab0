//! Logs: text for people, JSON for machines, never with a secret, a token or a payload. And the export of spans.

mod traces;

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Log, LogFormat};

pub use traces::Traces;

/// Starts logging to standard error. Later calls change nothing.
pub fn init(log: &Log) {
    // The HTTP server's start-up lines repeat ours, and a request that its parser cannot read is not an error of the
    // hub. A filter that names these targets still applies.
    let filter = EnvFilter::try_new(format!("actix_server=warn,actix_http::h1::dispatcher=off,{}", log.level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would report to standard error that standard error cannot be written, and panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let _ = match log.format {
        LogFormat::Pretty => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
}
