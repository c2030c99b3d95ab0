//! The `Idempotency-Key` header, and answers that may be an earlier request's (contract §4).

use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, http::StatusCode, web::Bytes};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::{
    hub::{Idempotency, Written},
    store::FaultyField,
};

/// The key, where there is one, with what it will stand for.
///
/// # Errors
/// 400.
pub fn from_request(request: &HttpRequest) -> Result<Option<impl FnOnce(&Bytes) -> Idempotency>, Problem> {
    let Some(key) = key(request)? else { return Ok(None) };
    let route = request.match_pattern().unwrap_or_default();
    Ok(Some(move |body: &Bytes| {
        // The same body at another route is another request.
        let request_hash = Sha256::new().chain_update(route).chain_update([0]).chain_update(body).finalize().into();
        Idempotency { key, request_hash }
    }))
}

/// The key, bare or as the structured-field string of the draft.
fn key(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let mut values = request.headers().get_all("idempotency-key");
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or("").trim();
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if (1..=255).contains(&bare.len()) && values.next().is_none() {
        Ok(Some(bare.to_owned()))
    } else {
        let rule = "must be 1 to 255 visible ASCII characters, and sent once";
        Err(Problem::invalid(vec![FaultyField::new("Idempotency-Key", rule)]))
    }
}

/// An answer with this status, marked if an earlier request got it first.
pub fn answer<T>(status: StatusCode, written: &Written<T>) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    if written.replayed {
        response.insert_header(("idempotency-replayed", "true"));
    }
    response
}
