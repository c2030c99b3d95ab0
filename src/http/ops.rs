//! Probes (contract §8).

use actix_web::{HttpResponse, http::header, web::Data};
use serde_json::json;

use crate::{bus::BusState, hub::Hub};

/// What is measured, for Prometheus.
pub async fn metrics(hub: Data<Hub>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(crate::metrics::render(&hub).await)
}

/// The process is up.
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

/// Requests can be served; 503 with the failing part while not, and while draining. Without its bus a node serves all the
/// same, a second later: that is degraded, and no reason to send its clients away.
pub async fn readyz(hub: Data<Hub>) -> HttpResponse {
    match hub.ready().await {
        Ok(()) if matches!(hub.bus(), BusState::Away | BusState::Split) => {
            HttpResponse::Ok().json(json!({"status": "degraded", "failing": "bus"}))
        }
        Ok(()) => HttpResponse::Ok().json(json!({"status": "ready"})),
        Err(part) => HttpResponse::ServiceUnavailable()
            .insert_header((header::RETRY_AFTER, "1"))
            .json(json!({"status": "unavailable", "failing": part})),
    }
}
