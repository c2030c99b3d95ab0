//! Logs: text for people, JSON for machines, never with a secret, a token or a payload. And the export of spans.

mod lines;
mod traces;

use std::{backtrace::Backtrace, io::IsTerminal as _, panic};

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{EnvFilter, fmt};

use self::lines::Lines;
use crate::config::{Log, LogFormat};

pub use lines::dropped as dropped_lines;
pub use traces::Traces;

/// The log. What waits to be written is written when this is dropped.
#[must_use]
pub struct Logging {
    _guard: WorkerGuard,
}

/// Starts logging to standard error. Later calls change nothing.
pub fn init(log: &Log) -> Logging {
    // The HTTP server's start-up lines repeat ours, and a request that its parser cannot read is not an error of the
    // hub. A filter that names these targets still applies.
    let filter = EnvFilter::try_new(format!("actix_server=warn,actix_http::h1::dispatcher=off,{}", log.level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let (lines, guard) = Lines::start();
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(lines)
        // It would report to standard error that standard error cannot be written, and panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let _ = match log.format {
        LogFormat::Pretty => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    // A panic's own message would go to standard error without the queue.
    panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let backtrace =
            (backtrace.status() == std::backtrace::BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(
            panic = panic.payload_as_str(),
            at = panic.location().map(tracing::field::display),
            backtrace,
            "panicked"
        );
    }));
    Logging { _guard: guard }
}
