//! What an upgrade request offers: a credential in one of four places, subprotocols, an app.

use actix_http::{HttpMessage as _, Request};
use actix_web::http::header;

use crate::http::caller::bearer;

/// The stream's subprotocol. Who offers it is refused by close code, after the upgrade.
pub(super) const V1: &str = "oriva.v1";
const BEARER: &str = "bearer.";

/// What the client sent along.
#[derive(Debug, Default)]
pub(super) struct Offer {
    pub speaks_v1: bool,
    pub credential: Option<String>,
    pub app_id: Option<String>,
}

impl Offer {
    pub(super) fn read(request: &Request) -> Self {
        let mut offer = Self::default();
        let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).filter_map(|value| value.to_str().ok());
        for protocol in offered.flat_map(|value| value.split(',')).map(str::trim) {
            if protocol == V1 {
                offer.speaks_v1 = true;
            } else if let Some(token) = protocol.strip_prefix(BEARER) {
                offer.credential = Some(token.to_owned());
            }
        }
        if offer.credential.is_none() {
            offer.credential = bearer(request.headers()).map(str::to_owned);
        }
        let query = request.uri().query().unwrap_or("");
        let Ok(parameters) = actix_web::web::Query::<Vec<(String, String)>>::from_query(query) else { return offer };
        for (name, value) in parameters.into_inner() {
            match name.as_str() {
                "token" | "auth" if offer.credential.is_none() => offer.credential = Some(value),
                "app_id" => offer.app_id = Some(value),
                _ => {}
            }
        }
        offer
    }
}
