//! `/users/{user_id}/presence`: whether a user is online, over all nodes (contract §8).

use actix_web::{HttpResponse, web::Data};

use crate::{
    http::{
        Problem,
        caller::{Inbox, Read},
        query::{self, Parameters},
    },
    hub::Hub,
};

/// How many sockets of a user are open that are shown what the caller's app publishes; a platform app counts all.
///
/// # Errors
/// 401, 403, 404, 429, 400.
pub async fn get(inbox: Inbox<Read>, hub: Data<Hub>, parameters: Parameters) -> Result<HttpResponse, Problem> {
    query::fields(parameters, None).0.finish().map_err(Problem::invalid)?;
    Ok(HttpResponse::Ok().json(hub.presence(inbox.user()?, inbox.reach().app.as_ref()).await))
}
