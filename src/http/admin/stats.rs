//! `/admin/stats`: the hub as a whole (contract §8).

use actix_web::{HttpResponse, web::Data};

use crate::{
    http::{
        Problem,
        caller::Admin,
        query::{self, Parameters},
    },
    hub::Hub,
};

/// # Errors
/// 401, 403, 400, 503.
pub async fn get(_: Admin, hub: Data<Hub>, parameters: Parameters) -> Result<HttpResponse, Problem> {
    query::fields(parameters, None).0.finish().map_err(Problem::invalid)?;
    Ok(HttpResponse::Ok().json(hub.stats().await?))
}
