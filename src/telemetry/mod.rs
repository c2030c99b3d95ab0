//! Logs: pretty for people, JSON for machines. Never a secret, a token or a payload. And spans, where somebody collects
//! them.

mod traces;

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Log, LogFormat};

pub use traces::Traces;

/// Sends logs to standard error from now on. Later calls change nothing.
pub fn init(log: &Log) {
    // The HTTP server's own start-up lines say nothing that ours do not, and what its parser cannot read is no ERROR of the
    // hub's; a filter that names them still decides.
    let filter = EnvFilter::try_new(format!("actix_server=warn,actix_http::h1::dispatcher=off,{}", log.level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would say so on standard error, which is what cannot be written, and panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let _ = match log.format {
        LogFormat::Pretty => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
}
