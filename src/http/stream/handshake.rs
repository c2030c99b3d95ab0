//! What an upgrade request contains: a credential in one of four places, subprotocols, parameters of the address.

use actix_http::{HttpMessage as _, Method, Request, Version};
use actix_web::http::header;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use oriva_hub_actors::{
    model::{AppId, EventPattern, Invalid, MAX_PATTERNS, Offset, UserId},
    protocol::ClientFrame,
};

use crate::{
    http::{
        auth::credential,
        body::{Fields, text},
        query::{self, Parameters},
    },
    store::FaultyField,
};

/// The stream's subprotocol. A client that offers it is rejected by a close code after the upgrade.
pub(super) const V1: &str = "oriva.v1";
const BEARER: &str = "bearer.";
/// The version of the protocol (RFC 6455 §4.1).
pub(super) const VERSION: &str = "13";

/// What the headers and the address offer, before anybody is authenticated.
#[derive(Debug, Default)]
pub(super) struct Offer {
    pub speaks_v1: bool,
    pub credential: Option<String>,
    /// The accepted parameters of permessage-deflate. `None`: not negotiated.
    pub deflate: Option<&'static str>,
}

/// The parameters of the address, apart from the credential.
#[derive(Debug)]
pub(super) struct StreamParameters {
    /// Repeats the credential's app.
    pub app_id: Option<AppId>,
    /// The user whose stream an app's key opens.
    pub user_id: Option<UserId>,
    /// What is subscribed to at once.
    pub subscribe: Option<ClientFrame>,
}

impl Offer {
    /// Reads a request. Faults of the address are for a caller who is known.
    pub(super) fn read(request: &Request) -> (Self, Result<StreamParameters, Vec<FaultyField>>) {
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
        let parameters = match Parameters::parse(request.uri().query().unwrap_or("")) {
            Ok(parameters) => parameters,
            Err(fault) => {
                offer.credential = offer.credential.or_else(|| credential(request.headers()).map(str::to_owned));
                return (offer, Err(vec![fault]));
            }
        };
        let (mut fields, [patterns]) = query::fields(parameters, ["event_types"]);
        fields.rename("auth", "token");
        let token = fields.optional_text("token", |text| Ok(text.to_owned()));
        let header = || credential(request.headers()).map(str::to_owned);
        offer.credential = offer.credential.or_else(header).or(token);
        (offer, StreamParameters::read(fields, patterns))
    }
}

impl StreamParameters {
    fn read(mut fields: Fields<'_>, patterns: Vec<String>) -> Result<Self, Vec<FaultyField>> {
        let app_id = fields.optional("app_id", AppId::parse);
        let user_id = fields.optional("user_id", UserId::parse);
        let after = fields.optional("after", offset);
        let after_broadcast = fields.optional("after_broadcast", offset);
        let epoch = fields.optional("epoch", text(1..=100));
        if patterns.len() > MAX_PATTERNS {
            fields.fault("event_types", &format!("must be given at most {MAX_PATTERNS} times"));
        }
        if patterns.is_empty() && (after.is_some() || after_broadcast.is_some() || epoch.is_some()) {
            fields.fault("event_types", "is required beside after, after_broadcast or epoch");
        }
        let mut parsed = Vec::new();
        for pattern in patterns {
            match EventPattern::parse(&pattern) {
                Ok(pattern) => parsed.push(pattern),
                Err(Invalid(rule)) => fields.fault("event_types", &rule),
            }
        }
        fields.finish()?;
        let subscribe = (!parsed.is_empty()).then_some(ClientFrame::Subscribe {
            patterns: parsed,
            after,
            after_broadcast,
            epoch,
            id: None,
        });
        Ok(Self { app_id, user_id, subscribe })
    }
}

fn offset(text: &str) -> Result<Offset, Invalid> {
    text.parse().map_err(|_| Invalid("must be a whole number from 0 on".to_owned()))
}

/// Checks that a request asks for a WebSocket as RFC 6455 §4.2.1 says. The server has checked `Upgrade` and `Host`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn verify(request: &Request) -> Result<(), HandshakeError> {
    let head = request.head();
    let only = |name| {
        let mut values = head.headers().get_all(name);
        values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
    };
    if head.method != Method::GET {
        return Err(HandshakeError::Method);
    }
    if head.version < Version::HTTP_11 {
        return Err(HandshakeError::HttpVersion);
    }
    let connection = head.headers().get_all(header::CONNECTION).filter_map(|value| value.to_str().ok());
    if !connection.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade")) {
        return Err(HandshakeError::Connection);
    }
    if only(header::SEC_WEBSOCKET_VERSION).map(str::trim) != Some(VERSION) {
        return Err(HandshakeError::Version);
    }
    let key = only(header::SEC_WEBSOCKET_KEY).and_then(|key| BASE64_STANDARD.decode(key.trim()).ok());
    if key.is_none_or(|key| key.len() != 16) {
        return Err(HandshakeError::Key);
    }
    Ok(())
}

/// Why an upgrade request is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("a WebSocket is opened with GET")]
    Method,
    #[error("a WebSocket is opened with HTTP/1.1")]
    HttpVersion,
    #[error("the header Connection must name Upgrade")]
    Connection,
    #[error("the header Sec-WebSocket-Version must be given once, and must be 13")]
    Version,
    #[error("the header Sec-WebSocket-Key must be given once, and must be 16 bytes in base64")]
    Key,
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

    fn read(uri: &str) -> (Offer, Result<StreamParameters, Vec<FaultyField>>) {
        Offer::read(&TestRequest::with_uri(uri).finish())
    }

    #[test]
    fn an_address_may_subscribe_and_what_it_may_not_is_named() {
        let (offer, parameters) =
            read("/?token=t&app_id=a&user_id=u%20&event_types=a.*&event_types=**&after=7&epoch=e");
        assert_eq!(offer.credential.as_deref(), Some("t"));
        assert_eq!(parameters.unwrap_err()[0].field, "user_id");
        let (_, parameters) = read("/?auth=t&user_id=u&event_types=a.*&event_types=**&after=7&epoch=e");
        let parameters = parameters.unwrap();
        assert_eq!(parameters.user_id.unwrap().as_str(), "u");
        let Some(ClientFrame::Subscribe { patterns, after, after_broadcast, .. }) = parameters.subscribe else {
            panic!()
        };
        assert_eq!((patterns.len(), after, after_broadcast), (2, Some(7), None));
        for (uri, field) in [
            ("/?since=1", "since"),
            ("/?after=-1&event_types=a", "after"),
            ("/?after=1", "event_types"),
            ("/?event_types=A", "event_types"),
            ("/?token=a&auth=b", "auth"),
            ("/?token=a&token=b", "token"),
            ("/?app_id=", "app_id"),
            ("/?lastEventID=4", "lastEventID"),
        ] {
            assert_eq!(read(uri).1.unwrap_err()[0].field, field, "{uri}");
        }
    }

    #[test]
    fn what_is_no_websocket_request_is_told_why() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let ask = |version: &str, keys: &[&str], method: Method, http: Version| {
            let mut request = TestRequest::default();
            request.method(method).version(http).insert_header((header::SEC_WEBSOCKET_VERSION, version));
            request.insert_header((header::CONNECTION, "keep-alive, Upgrade"));
            for key in keys {
                request.append_header((header::SEC_WEBSOCKET_KEY, *key));
            }
            verify(&request.finish())
        };
        let (get, one) = (|| Method::GET, Version::HTTP_11);
        assert_eq!(ask("13", &[key], get(), one), Ok(()));
        for keys in [&[][..], &[key, key], &["dGhlIA=="], &["not base64"]] {
            assert_eq!(ask("13", keys, get(), one), Err(HandshakeError::Key), "{keys:?}");
        }
        assert_eq!(verify(&TestRequest::default().finish()), Err(HandshakeError::Connection));
        assert_eq!(ask("8", &[key], get(), one), Err(HandshakeError::Version));
        assert_eq!(ask("13", &[key], Method::POST, one), Err(HandshakeError::Method));
        assert_eq!(ask("13", &[key], get(), Version::HTTP_10), Err(HandshakeError::HttpVersion));
    }

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
