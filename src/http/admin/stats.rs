//! `/admin/stats`: figures of the whole hub (contract §8).

use actix_web::{HttpResponse, web::Data};

use crate::{
    http::{
        Problem,
        auth::Admin,
        openapi::answers::{Checked, Operator},
        query::{self, Parameters},
    },
    hub::{Hub, Stats},
};

/// Returns figures of the whole hub, over all nodes.
#[utoipa::path(
    get,
    path = "/api/v1/admin/stats",
    operation_id = "getStats",
    tag = "Admin",
    responses((status = 200, description = "Figures over all nodes", body = Stats), Operator, Checked),
    security(("admin_key" = [])),
)]
pub async fn get(_: Admin, hub: Data<Hub>, parameters: Parameters) -> Result<HttpResponse, Problem> {
    query::fields(parameters, []).0.finish().map_err(Problem::invalid)?;
    Ok(HttpResponse::Ok().json(hub.stats().await?))
}
