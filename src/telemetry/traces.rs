//! Spans, sent to a collector over OTLP (HTTP, protobuf). What `OTEL_…` variables the exporter knows (headers, sampler,
//! batch sizes) it reads by itself.

use std::time::Duration;

use opentelemetry::{KeyValue, global::BoxedTracer, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use oriva_hub_actors::traces;

/// How long the end waits for the last spans to be taken.
const LAST_EXPORT: Duration = Duration::from_secs(3);

/// Spans that are exported; the last ones when it is finished with.
#[must_use]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Exports to a collector from now on, where there is one.
    ///
    /// # Errors
    /// Where the exporter cannot be built.
    pub fn start(otlp_endpoint: Option<&str>) -> Result<Self, String> {
        let Some(endpoint) = otlp_endpoint else { return Ok(Self(None)) };
        crate::crypto::install();
        let exporter = SpanExporter::builder().with_http().with_endpoint(address(endpoint)).build();
        let exporter = exporter.map_err(|error| format!("telemetry.otlp_endpoint: {error}"))?;
        let resource = Resource::builder()
            .with_service_name("oriva-hub")
            .with_attribute(KeyValue::new("service.version", env!("ORIVA_HUB_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        traces::export_with(BoxedTracer::new(Box::new(provider.tracer("oriva-hub"))));
        tracing::info!(endpoint, "exporting traces");
        Ok(Self(Some(provider)))
    }

    /// Sends what was not sent yet. Blocks.
    pub fn finish(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown_with_timeout(LAST_EXPORT)) {
            tracing::warn!(%error, "the last traces were not taken");
        }
    }
}

/// Where traces go at a collector's address (OTLP specification, "Endpoint URLs for OTLP/HTTP").
fn address(endpoint: &str) -> String {
    format!("{}/v1/traces", endpoint.trim_end_matches('/'))
}
