//! `POST /apps/{app_id}/users/{user_id}/tokens` (contract §1).

use std::time::Duration;

use actix_web::{
    HttpResponse,
    web::{Data, Path},
};
use oriva_hub_actors::model::{Timestamp, UserId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    http::{
        Problem,
        auth::AppKey,
        body::{Body, Fields},
        openapi::{
            answers::{Limited, WithBody},
            parameters::{OfApp, OfUser},
            requests::TokenRequest,
        },
        rate_limit::Unlimited,
    },
    hub::Hub,
};

const DEFAULT_TTL_SECONDS: u64 = 60 * 60;
const MAX_TTL_SECONDS: u64 = 24 * 60 * 60;

/// Issues a token for one of the app's users.
#[utoipa::path(
    post,
    path = "/api/v1/apps/{app_id}/users/{user_id}/tokens",
    operation_id = "issueToken",
    tag = "Stream",
    params(OfApp, OfUser),
    request_body = Option<TokenRequest>,
    responses(
        (status = 201, description = "The token", body = IssuedToken),
        Limited,
        WithBody
    ),
    security(("app_key" = [])),
)]
pub async fn issue(
    app: AppKey<Unlimited>,
    hub: Data<Hub>,
    path: Path<(String, String)>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let user = UserId::parse(&path.1).map_err(|rule| Problem::malformed_id("user_id", &rule))?;
    let bytes = body.json_or_nothing().await?;
    let mut fields = Fields::parse(&bytes)?;
    let ttl = fields.integer("ttl_seconds", 1..=MAX_TTL_SECONDS).unwrap_or(DEFAULT_TTL_SECONDS);
    fields.finish().map_err(Problem::invalid)?;
    let (token, expires_at) = hub.issue_token(app.holder(), &user, Duration::from_secs(ttl))?;
    Ok(HttpResponse::Created().json(IssuedToken { token, expires_at }))
}

/// A user's token.
#[derive(Serialize, ToSchema)]
struct IssuedToken {
    token: String,
    expires_at: Timestamp,
}
