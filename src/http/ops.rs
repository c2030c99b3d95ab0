//! Probes (contract §8).

use actix_web::{HttpResponse, http::header, web::Data};
use oriva_hub_actors::metric_names;
use serde::Serialize;
use utoipa::ToSchema;

use super::PendingAnswers;
use crate::{bus::BusState, hub::Hub};

/// Returns metrics for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "getMetrics",
    tag = "Operations",
    responses((status = 200, description = "Metrics in the text format of Prometheus", body = String, content_type = "text/plain; version=0.0.4")),
    security(()),
)]
pub async fn metrics(hub: Data<Hub>, pending: Data<PendingAnswers>) -> HttpResponse {
    metrics::gauge!(metric_names::ANSWERS_PENDING).set(pending.bytes() as f64);
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(crate::metrics::render(&hub.figures().await))
}

/// Returns 200 while the process is up.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "getHealth",
    tag = "Operations",
    responses((status = 200, description = "The process is up", body = Probe)),
    security(()),
)]
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(Probe::healthy("ok"))
}

/// Returns 200 while this node can serve requests.
///
/// 503 while nothing can be written, a part of the node has failed, or it drains. Without Redis (`bus`) a node still serves
/// everyone, with up to a second of delay; where Redis refuses to count (`counting`), limits hold for each node alone; with a
/// clock that is ten seconds off (`clock`) it judges tokens wrongly: that is `degraded`, with 200, so that a load balancer keeps
/// its clients there.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "getReadiness",
    tag = "Operations",
    responses(
        (status = 200, description = "The node serves requests", body = Probe),
        (
            status = 503,
            description = "The node does not serve requests. The answer names the failing part",
            body = Probe,
            headers(("Retry-After" = u32, description = "Seconds until the next attempt"))
        )
    ),
    security(()),
)]
pub async fn readyz(hub: Data<Hub>) -> HttpResponse {
    match hub.ready().await {
        Ok(()) if matches!(hub.bus(), BusState::Away | BusState::Split) => {
            HttpResponse::Ok().json(Probe { status: "degraded", failing: Some("bus") })
        }
        Ok(()) if hub.counts_alone() => {
            HttpResponse::Ok().json(Probe { status: "degraded", failing: Some("counting") })
        }
        Ok(()) if hub.clock_is_far_off() => {
            HttpResponse::Ok().json(Probe { status: "degraded", failing: Some("clock") })
        }
        Ok(()) => HttpResponse::Ok().json(Probe::healthy("ready")),
        Err(part) => HttpResponse::ServiceUnavailable()
            .insert_header((header::RETRY_AFTER, "1"))
            .json(Probe { status: "unavailable", failing: Some(part) }),
    }
}

/// The state of the process.
#[derive(Serialize, ToSchema)]
struct Probe {
    /// `ok`, `ready`, `degraded` or `unavailable`.
    status: &'static str,
    /// The failing part.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing: Option<&'static str>,
}

impl Probe {
    fn healthy(status: &'static str) -> Self {
        Self { status, failing: None }
    }
}
