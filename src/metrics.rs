//! Metrics in the text format of Prometheus (contract §8). The names are in the realtime core's `metric_names`.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use oriva_hub_actors::{
    metric_names::{self, Kind, Metric},
    model::StreamKind,
};

use crate::{bus::BusState, telemetry};

/// Seconds, from a tenth of a millisecond to ten.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const SIZES: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1000.0];
/// Interval at which recorded values are put into buckets, if nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// The process's one recorder.
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the recorder, once for the process, and its upkeep. Must be called within a running actix `System`.
pub fn start() {
    let handle = RECORDER.get_or_init(|| {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&SECONDS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Full(metric_names::WRITER_BATCH.to_owned()), &SIZES)
            })
            .map(PrometheusBuilder::build_recorder);
        let recorder = recorder.unwrap_or_else(|_| PrometheusBuilder::new().build_recorder());
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another recorder is installed; /metrics stays empty");
        }
        for Metric { name, kind, help } in metric_names::ALL {
            match kind {
                Kind::Counter => metrics::describe_counter!(*name, *help),
                Kind::Gauge => metrics::describe_gauge!(*name, *help),
                Kind::Histogram => metrics::describe_histogram!(*name, *help),
            }
        }
        // Series with known labels start at 0 instead of being absent.
        metrics::counter!(metric_names::STREAMS_OPENED).increment(0);
        metrics::counter!(metric_names::OVERFLOWS).increment(0);
        for kind in [StreamKind::App, StreamKind::User, StreamKind::Broadcast] {
            metrics::counter!(metric_names::GAP_PAGES, "stream" => kind.as_str()).increment(0);
        }
        metrics::gauge!(metric_names::BUILD, "version" => env!("ORIVA_HUB_VERSION")).set(1.0);
        handle
    });
    actix_rt::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            handle.run_upkeep();
        }
    });
}

/// Gauges of a node that are read when they are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Sockets open.
    pub sockets: usize,
    /// Users and apps online.
    pub sessions: usize,
    /// The state of the bus.
    pub bus: BusState,
    /// Events that wait to be written or are being written.
    pub writer_queue_events: usize,
    /// Connections to the store that nobody uses.
    pub store_connections_idle: u32,
    /// Connections to the store in use.
    pub store_connections_in_use: u32,
    /// Size of the store's write-ahead log, where it has one of its own.
    pub store_log_bytes: Option<u64>,
    /// Webhook deliveries claimed and not recorded yet.
    pub deliveries_in_flight: usize,
}

/// All metrics, with these figures, in the text format of Prometheus.
#[must_use]
pub fn render(figures: &Figures) -> String {
    metrics::gauge!(metric_names::SOCKETS).set(figures.sockets as f64);
    metrics::gauge!(metric_names::SESSIONS).set(figures.sessions as f64);
    for state in BusState::ALL {
        let is_current = if figures.bus == state { 1.0 } else { 0.0 };
        metrics::gauge!(metric_names::BUS_STATE, "state" => state.as_str()).set(is_current);
    }
    metrics::gauge!(metric_names::WRITER_QUEUE).set(figures.writer_queue_events as f64);
    for (state, count) in [("idle", figures.store_connections_idle), ("in_use", figures.store_connections_in_use)] {
        metrics::gauge!(metric_names::STORE_CONNECTIONS, "state" => state).set(f64::from(count));
    }
    metrics::gauge!(metric_names::DELIVERIES_IN_FLIGHT).set(figures.deliveries_in_flight as f64);
    metrics::counter!(metric_names::LOG_LINES_DROPPED).absolute(telemetry::dropped_lines());
    if let Some(bytes) = figures.store_log_bytes {
        metrics::gauge!(metric_names::STORE_LOG_BYTES).set(bytes as f64);
    }
    RECORDER.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// Counts a lookup in a cache.
pub fn cache_lookup(cache: &'static str, is_hit: bool) {
    metrics::counter!(metric_names::CACHE_LOOKUPS, "cache" => cache, "outcome" => if is_hit { "hit" } else { "miss" })
        .increment(1);
}

/// A method's name; `other` for one that a client made up.
#[must_use]
pub fn method_label(method: &actix_web::http::Method) -> String {
    match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known.to_owned(),
        _ => "other".to_owned(),
    }
}

/// Records a request. Methods that clients make up share one label, and so do paths without a route.
pub fn request(method: &actix_web::http::Method, route: Option<String>, status: u16, took: Duration) {
    let method = method_label(method);
    let route: Arc<str> = route.map_or_else(|| "none".into(), Into::into);
    let status = status.to_string();
    metrics::histogram!(metric_names::HTTP_REQUESTS, "method" => method, "route" => route, "status" => status)
        .record(took.as_secs_f64());
}
