//! `/users/{user_id}/presence`: whether a user is online, over all nodes (contract §8).

use actix_web::{HttpResponse, web::Data};

use crate::{
    http::{
        Problem,
        auth::InboxAccess,
        openapi::{
            answers::{Checked, Limited},
            parameters::OfUser,
        },
        query::{self, Parameters},
        rate_limit::Read,
    },
    hub::{Hub, UserPresence},
};

/// Returns whether a user is online, on any node.
///
/// Only sockets that get the events of the caller's app count; for a platform app all.
#[utoipa::path(
    get,
    path = "/api/v1/users/{user_id}/presence",
    operation_id = "getPresence",
    tag = "Stream",
    params(OfUser),
    responses((status = 200, description = "Presence", body = UserPresence), Limited, Checked),
    security(("user_token" = []), ("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("read"))),
)]
pub async fn get(inbox: InboxAccess<Read>, hub: Data<Hub>, parameters: Parameters) -> Result<HttpResponse, Problem> {
    query::fields(parameters, []).0.finish().map_err(Problem::invalid)?;
    Ok(HttpResponse::Ok().json(hub.presence(inbox.user()?, inbox.scope().app.as_ref()).await))
}
