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

/// Whether a user is online, over all nodes.
///
/// Counted are the sockets that are shown what the caller's app publishes; for a platform app all.
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
    query::fields(parameters, None).0.finish().map_err(Problem::invalid)?;
    Ok(HttpResponse::Ok().json(hub.presence(inbox.user()?, inbox.scope().app.as_ref()).await))
}
