//! `/admin/stats`: the hub as a whole (contract §8).

use actix_web::{HttpResponse, web::Data};

use crate::{
    http::{Problem, caller::Admin},
    hub::Hub,
};

/// # Errors
/// 401, 403, 503.
pub async fn get(_: Admin, hub: Data<Hub>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(hub.stats().await?))
}
