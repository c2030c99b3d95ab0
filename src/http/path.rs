//! Parameters in paths.

use actix_web::HttpRequest;
use oriva_hub_actors::model::UserId;
use serde::Deserialize;
use uuid::Uuid;

use super::{problem::Problem, query::has_valid_escapes};

/// Parses an id that the hub made. Only its canonical form is accepted, so that each thing has one address.
///
/// # Errors
/// 404.
pub(super) fn uuid(text: &str) -> Result<Uuid, Problem> {
    let id: Uuid = text.parse().map_err(|_| Problem::not_found())?;
    if id.to_string() == text { Ok(id) } else { Err(Problem::not_found()) }
}

/// The `{user_id}` of a path, if it has one.
///
/// # Errors
/// 404 if no user can have this id.
pub(super) fn user_id(request: &HttpRequest) -> Result<Option<UserId>, Problem> {
    #[derive(Deserialize)]
    struct Parameters {
        user_id: String,
    }
    // Decoded in full: `match_info` leaves `%2B`, `%2F` and `%25` as they are.
    let Ok(Parameters { user_id }) = request.match_info().load() else { return Ok(None) };
    // `%` without two digits is passed over by the decoder, so it would be another user's id.
    if !has_valid_escapes(request.uri().path()) {
        return Err(Problem::not_found());
    }
    let user = UserId::parse(&user_id).map_err(|rule| Problem::malformed_id("user_id", &rule))?;
    // A path that is not UTF-8 is decoded to this character.
    if user.as_str().contains(char::REPLACEMENT_CHARACTER) { Err(Problem::not_found()) } else { Ok(Some(user)) }
}
