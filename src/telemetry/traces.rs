//! Export of spans to a collector over OTLP (HTTP, protobuf). The exporter reads further `OTEL_…` variables itself
//! (headers, sampler, batch sizes).

use std::time::Duration;

use opentelemetry::{KeyValue, global::BoxedTracer, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use oriva_hub_actors::traces;

use crate::config::ConfigError;

/// How long a shutdown waits for the last spans.
const LAST_EXPORT: Duration = Duration::from_secs(3);

/// A running exporter. `finish` sends the last spans.
#[must_use]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Starts exporting, if a collector is configured.
    ///
    /// # Errors
    /// Where the exporter cannot be built, or a variable has an impossible value.
    pub fn start(otlp_endpoint: Option<&str>) -> Result<Self, ConfigError> {
        let Some(endpoint) = otlp_endpoint else { return Ok(Self(None)) };
        check_environment(|name| std::env::var(name).ok())?;
        crate::crypto::install();
        let exporter = SpanExporter::builder().with_http().with_endpoint(address(endpoint)).build();
        let exporter = exporter.map_err(|error| ConfigError(format!("telemetry.otlp_endpoint: {error}")))?;
        let resource = Resource::builder()
            .with_service_name("oriva-hub")
            .with_attribute(KeyValue::new("service.version", env!("ORIVA_HUB_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        traces::export_with(BoxedTracer::new(Box::new(provider.tracer("oriva-hub"))));
        tracing::info!(endpoint, "exporting traces");
        Ok(Self(Some(provider)))
    }

    /// Sends the remaining spans. Blocks.
    pub fn finish(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown_with_timeout(LAST_EXPORT)) {
            tracing::warn!(%error, "the last traces were not taken");
        }
    }
}

/// The exporter accepts any number: it would allocate memory for that many spans, or loop without a pause.
fn check_environment(variable: impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    for (name, range) in [
        ("OTEL_BSP_MAX_QUEUE_SIZE", 1..=1_000_000),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1..=1_000_000),
        ("OTEL_BSP_SCHEDULE_DELAY", 10..=3_600_000),
        ("OTEL_BSP_EXPORT_TIMEOUT", 10..=3_600_000),
    ] {
        let is_fine = |text: String| text.parse().is_ok_and(|number: u64| range.contains(&number));
        if !variable(name).is_none_or(is_fine) {
            return Err(ConfigError(format!("{name} must be between {} and {}", range.start(), range.end())));
        }
    }
    Ok(())
}

/// The URL for traces at a collector (OTLP specification, "Endpoint URLs for OTLP/HTTP").
fn address(endpoint: &str) -> String {
    format!("{}/v1/traces", endpoint.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_that_the_exporter_would_choke_on_is_refused() {
        let with = |name: &'static str, value: &'static str| {
            check_environment(move |asked| (asked == name).then(|| value.to_owned()))
        };
        assert!(check_environment(|_| None).is_ok());
        assert!(with("OTEL_BSP_MAX_QUEUE_SIZE", "4096").is_ok());
        for (name, value) in [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "18446744073709551615"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many"),
        ] {
            assert!(with(name, value).unwrap_err().to_string().starts_with(name), "{name}");
        }
    }
}
