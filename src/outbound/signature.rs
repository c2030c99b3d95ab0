//! Both signature schemes of contract §7: the platform's own header, and Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

use std::fmt::Write as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac as _};
use oriva_hub_actors::ports::SigningSecret;
use sha2::Sha256;

/// How a secret begins.
pub const PREFIX: &str = "whsec_";

/// Signs as a request is signed: for the micro benches.
#[cfg(feature = "testing")]
#[must_use]
pub fn both(secret: &SigningSecret, id: &str, timestamp: i64, body: &[u8]) -> (String, String) {
    (oriva(secret, body), standard(std::slice::from_ref(secret), id, timestamp, body))
}

/// `sha256=` and the hexadecimal HMAC-SHA256 of the raw body. The key is the secret's text.
pub(super) fn oriva(secret: &SigningSecret, body: &[u8]) -> String {
    let mut out = "sha256=".to_owned();
    for byte in mac(secret.0.as_bytes(), &[body]) {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// `v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`, one for each valid secret. The key is the decoded base64 of
/// the secret.
pub(super) fn standard(secrets: &[SigningSecret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let head = format!("{id}.{timestamp}.");
    let signatures = secrets.iter().map(|secret| {
        let key = BASE64_STANDARD.decode(secret.0.trim_start_matches(PREFIX)).unwrap_or_default();
        format!("v1,{}", BASE64_STANDARD.encode(mac(&key, &[head.as_bytes(), body])))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platforms_header_is_the_plain_hmac_of_the_body() {
        // RFC 4231, test case 2.
        let signature = oriva(&SigningSecret("Jefe".to_owned()), b"what do ya want for nothing?");
        assert_eq!(signature, "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn the_standards_own_library_accepts_ours_under_either_secret() {
        let secrets = ["a".repeat(32), "b".repeat(32)]
            .map(|key| SigningSecret(format!("{PREFIX}{}", BASE64_STANDARD.encode(key))));
        let (id, body) = ("msg_1", br#"{"a":1}"#);
        let now = chrono::Utc::now().timestamp();
        let mut headers = http_headers(id, now, &standard(&secrets, id, now, body));
        for secret in &secrets {
            let library = standardwebhooks::Webhook::new(&secret.0).unwrap();
            library.verify(body, &headers).unwrap();
            assert!(library.verify(b"{}", &headers).is_err());
        }
        headers = http_headers(id, now, &standard(&secrets[..1], id, now, body));
        assert!(standardwebhooks::Webhook::new(&secrets[1].0).unwrap().verify(body, &headers).is_err());
    }

    fn http_headers(id: &str, timestamp: i64, signature: &str) -> http::HeaderMap {
        let mut headers = http::HeaderMap::new();
        for (name, value) in
            [("webhook-id", id), ("webhook-timestamp", &timestamp.to_string()), ("webhook-signature", signature)]
        {
            headers.insert(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }
}
