//! What an upgrade request contains: a credential in one of four places, subprotocols, an app.

use actix_http::{HttpMessage as _, Request};
use actix_web::http::header;

use crate::http::auth::bearer;

/// The stream's subprotocol. A client that offers it is rejected by a close code after the upgrade.
pub(super) const V1: &str = "oriva.v1";
const BEARER: &str = "bearer.";

/// The relevant parts of an upgrade request.
#[derive(Debug, Default)]
pub(super) struct Offer {
    pub speaks_v1: bool,
    pub credential: Option<String>,
    pub app_id: Option<String>,
    /// The accepted parameters of permessage-deflate. `None`: not negotiated.
    pub deflate: Option<&'static str>,
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
        offer.deflate = deflate(request);
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

/// The answer to the first acceptable offer of permessage-deflate (RFC 7692 §5, §7.1). Both sides compress each message
/// on its own, and the hub uses the largest window, so an offer of a smaller window is declined.
pub(super) fn deflate(request: &Request) -> Option<&'static str> {
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_EXTENSIONS).filter_map(|value| value.to_str().ok());
    offered.flat_map(|value| value.split(',')).find_map(|offer| {
        let mut parts = offer.split(';').map(str::trim);
        if parts.next() != Some("permessage-deflate") {
            return None;
        }
        let (mut seen, mut window) = (Vec::new(), false);
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim_end(), Some(value.trim().trim_matches('"'))),
                None => (part, None),
            };
            // Without a leading zero (RFC 7692 §7.1.2.1): parsing and printing a number removes it.
            let bits = value.and_then(|value| value.parse::<u8>().ok().filter(|bits| bits.to_string() == value));
            let bits = bits.filter(|bits| (8..=15).contains(bits));
            let can_be_kept = match name {
                "server_no_context_takeover" | "client_no_context_takeover" => value.is_none(),
                "client_max_window_bits" => value.is_none() || bits.is_some(),
                "server_max_window_bits" => {
                    window = true;
                    bits == Some(15)
                }
                _ => false,
            };
            if !can_be_kept || seen.contains(&name) {
                return None;
            }
            seen.push(name);
        }
        Some(if window {
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15"
        } else {
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        })
    })
}

#[cfg(test)]
mod tests {
    use actix_http::test::TestRequest;

    use super::*;

    #[test]
    fn the_first_offer_that_can_be_kept_is_agreed_on() {
        let plain = Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover");
        let window =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15";
        for (offer, agreed) in [
            ("permessage-deflate", plain),
            ("permessage-deflate; client_max_window_bits", plain),
            ("permessage-deflate; client_max_window_bits=10; server_no_context_takeover", plain),
            ("permessage-deflate;server_max_window_bits=15", Some(window)),
            ("permessage-deflate; server_max_window_bits=10", None),
            ("permessage-deflate; server_max_window_bits=10, permessage-deflate", plain),
            ("permessage-deflate; server_max_window_bits", None),
            ("permessage-deflate; client_max_window_bits=16", None),
            ("permessage-deflate; server_no_context_takeover=1", None),
            ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
            ("permessage-deflate; unheard_of", None),
            ("x-webkit-deflate-frame", None),
            ("", None),
        ] {
            let request = TestRequest::default().insert_header((header::SEC_WEBSOCKET_EXTENSIONS, offer)).finish();
            assert_eq!(deflate(&request), agreed, "{offer}");
        }
    }
}
