//! Probes (contract §8).

use actix_web::{HttpResponse, http::header, web::Data};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{bus::BusState, hub::Hub};

/// What is measured, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "getMetrics",
    tag = "Operations",
    responses((status = 200, description = "In Prometheus' text format", body = String, content_type = "text/plain; version=0.0.4")),
    security(()),
)]
pub async fn metrics(hub: Data<Hub>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(crate::metrics::render(&hub.figures().await))
}

/// Whether the process is up.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "getHealth",
    tag = "Operations",
    responses((status = 200, description = "It is", body = Probe)),
    security(()),
)]
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(Probe::healthy("ok"))
}

/// Whether requests can be served.
///
/// Not while a part fails or the node drains. Without its bus a node serves all the same, a second later: that is degraded,
/// and no reason to send its clients away.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "getReadiness",
    tag = "Operations",
    responses(
        (status = 200, description = "They can", body = Probe),
        (
            status = 503,
            description = "They cannot: the failing part is named",
            body = Probe,
            headers(("Retry-After" = u32, description = "Seconds to wait"))
        )
    ),
    security(()),
)]
pub async fn readyz(hub: Data<Hub>) -> HttpResponse {
    match hub.ready().await {
        Ok(()) if matches!(hub.bus(), BusState::Away | BusState::Split) => {
            HttpResponse::Ok().json(Probe { status: "degraded", failing: Some("bus") })
        }
        Ok(()) => HttpResponse::Ok().json(Probe::healthy("ready")),
        Err(part) => HttpResponse::ServiceUnavailable()
            .insert_header((header::RETRY_AFTER, "1"))
            .json(Probe { status: "unavailable", failing: Some(part) }),
    }
}

/// How the process stands.
#[derive(Serialize, ToSchema)]
struct Probe {
    /// `ok`, `ready`, `degraded` or `unavailable`.
    status: &'static str,
    /// The part that fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing: Option<&'static str>,
}

impl Probe {
    fn healthy(status: &'static str) -> Self {
        Self { status, failing: None }
    }
}
