//! User tokens: JWTs signed with HS256 (RFC 7519), for one user on one device.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use oriva_hub_actors::model::{AppId, Timestamp, UserId};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

/// A verified token's content.
#[derive(Debug, Clone)]
pub struct UserToken {
    /// The user.
    pub user: UserId,
    /// The app that issued it.
    pub app: AppId,
    /// When the token ends.
    pub expires_at: Timestamp,
}

/// Why a token was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It is signed with this hub's secret, but says something that the hub does not accept.
    #[error("the token is not valid: {0}")]
    Claims(&'static str),
    /// It was not made by this hub, or was changed.
    #[error("the token is not valid")]
    Invalid,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    app: &'a str,
    exp: i64,
    iat: i64,
    jti: Uuid,
}

/// Issues and verifies tokens under one secret.
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl Tokens {
    /// Signs with this secret.
    #[must_use]
    pub fn new(secret: &SecretString) -> Self {
        // The signature alone: claims are checked below, so that each fault has its reason.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims::<&str>(&[]);
        validation.validate_exp = false;
        validation.validate_aud = false;
        let secret = secret.expose_secret().as_bytes();
        Self { encoding: EncodingKey::from_secret(secret), decoding: DecodingKey::from_secret(secret), validation }
    }

    /// Issues a token for `user` by `app`, valid from now for `ttl`.
    ///
    /// # Errors
    /// Where signing fails. With HMAC it does not.
    pub fn issue(&self, app: &AppId, user: &UserId, ttl: Duration) -> Result<(String, Timestamp), TokenError> {
        let issued = Timestamp::now().unix_ms() / 1000;
        let expires = issued + i64::try_from(ttl.as_secs()).unwrap_or(0);
        let claims = Claims { sub: user.as_str(), app: app.as_str(), exp: expires, iat: issued, jti: Uuid::now_v7() };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(|_| TokenError::Invalid)?;
        Ok((token, Timestamp::from_unix_ms(expires * 1000)))
    }

    /// Verifies signature, expiry and form.
    ///
    /// # Errors
    /// [`TokenError::Expired`] for a signed token whose `exp` has passed, whatever else it says; [`TokenError::Claims`] only
    /// for a signed one.
    pub fn verify(&self, token: &str) -> Result<UserToken, TokenError> {
        // Whoever has the secret may have made it with another library, so the claims can have any shape.
        let claims = jsonwebtoken::decode::<Map<String, Value>>(token, &self.decoding, &self.validation)
            .map_err(|_| TokenError::Invalid)?
            .claims;
        if names_critical_extensions(token) {
            return Err(TokenError::Claims("its header names extensions in crit, and the hub knows none"));
        }
        let now = Timestamp::now().unix_ms();
        let expires = claims.get("exp").and_then(milliseconds);
        let expires = expires.ok_or(TokenError::Claims("exp must be a number of seconds since 1970"))?;
        // A token must not be accepted "on or after" its `exp` (RFC 7519 §4.1.4), nor before its `nbf` (§4.1.5).
        if expires <= now {
            return Err(TokenError::Expired);
        }
        if let Some(not_before) = claims.get("nbf") {
            let begins = milliseconds(not_before);
            if begins.ok_or(TokenError::Claims("nbf must be a number of seconds since 1970"))? > now {
                return Err(TokenError::Claims("its time has not come yet (nbf)"));
            }
        }
        let user = claims.get("sub").and_then(Value::as_str).and_then(|user| UserId::parse(user).ok());
        let app = claims.get("app").and_then(Value::as_str).and_then(|app| AppId::parse(app).ok());
        Ok(UserToken {
            user: user.ok_or(TokenError::Claims("sub must be the id of a user"))?,
            app: app.ok_or(TokenError::Claims("app must be the id of the app that issues it"))?,
            expires_at: Timestamp::from_unix_ms(expires),
        })
    }
}

/// The last moment that timestamps of the wire can show: the end of the year 9999.
const LAST_MOMENT_MS: f64 = 253_402_300_799_999.0;

/// A NumericDate: seconds since 1970, fractions allowed (RFC 7519 §2).
fn milliseconds(claim: &Value) -> Option<i64> {
    let milliseconds = claim.as_f64()? * 1000.0;
    #[expect(clippy::cast_possible_truncation, reason = "between 1970 and 9999")]
    (milliseconds >= 0.0).then(|| milliseconds.min(LAST_MOMENT_MS) as i64)
}

/// Whether a token demands that its reader understands extensions (RFC 7515 §4.1.11).
fn names_critical_extensions(token: &str) -> bool {
    let header = token.split('.').next().and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    let header = header.and_then(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes).ok());
    header.is_some_and(|header| header.contains_key("crit"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tokens() -> Tokens {
        Tokens::new(&"a secret of at least 32 characters".to_owned().into())
    }

    fn issue(ttl: u64) -> String {
        let (app, user) = (AppId::parse("demo").unwrap(), UserId::parse("alice").unwrap());
        tokens().issue(&app, &user, Duration::from_secs(ttl)).unwrap().0
    }

    #[test]
    fn what_is_issued_is_verified() {
        let token = tokens().verify(&issue(60)).unwrap();
        assert_eq!((token.user.as_str(), token.app.as_str()), ("alice", "demo"));
    }

    #[test]
    fn an_expired_a_forged_and_an_unsigned_token_are_refused() {
        assert_eq!(tokens().verify(&issue(0)).unwrap_err(), TokenError::Expired);
        let other = Tokens::new(&"another secret of 32 characters or more".to_owned().into());
        assert_eq!(other.verify(&issue(60)).unwrap_err(), TokenError::Invalid);
        let payload = issue(60).split('.').nth(1).unwrap().to_owned();
        let none = BASE64_URL_SAFE_NO_PAD.encode(br#"{"alg":"none","typ":"JWT"}"#);
        assert_eq!(tokens().verify(&format!("{none}.{payload}.")).unwrap_err(), TokenError::Invalid);
        assert_eq!(tokens().verify("not a token").unwrap_err(), TokenError::Invalid);
    }

    /// A token as another library makes it, with the hub's secret.
    fn signed(header: Header, claims: Value) -> String {
        jsonwebtoken::encode(&header, &claims, &tokens().encoding).unwrap()
    }

    #[test]
    fn what_a_signed_token_must_not_say_is_named() {
        let header = Header::new(Algorithm::HS256);
        let now = Timestamp::now().unix_ms() / 1000;
        let good = json!({"sub": "alice", "app": "demo", "exp": now + 60});
        assert!(tokens().verify(&signed(header.clone(), good.clone())).is_ok(), "jti and iat are for its maker");
        for (claim, value) in [
            ("exp", json!("soon")),
            ("exp", Value::Null),
            ("sub", json!("")),
            ("sub", json!(7)),
            ("app", json!("No Slug")),
            ("nbf", json!(now + 60)),
            ("nbf", json!("now")),
        ] {
            let mut claims = good.clone();
            claims[claim] = value.clone();
            let refused = tokens().verify(&signed(header.clone(), claims)).unwrap_err();
            assert!(refused.to_string().contains(claim), "{claim} {value}: {refused}");
        }
        let mut claims = good.clone();
        claims["nbf"] = json!(now - 1);
        claims["exp"] = json!(now as f64 + 60.5);
        let token = tokens().verify(&signed(header.clone(), claims)).unwrap();
        assert_eq!(token.expires_at.unix_ms(), now * 1000 + 60_500);
        let mut claims = good.clone();
        claims["exp"] = json!(1_i64 << 53);
        let token = tokens().verify(&signed(header, claims)).unwrap();
        assert_eq!(token.expires_at.to_string(), "9999-12-31T23:59:59.999Z");
        let parts: Vec<String> = [json!({"alg": "HS256", "crit": ["x"], "x": 1}), good]
            .iter()
            .map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()))
            .collect();
        let message = parts.join(".");
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &tokens().encoding, Algorithm::HS256).unwrap();
        let refused = tokens().verify(&format!("{message}.{signature}")).unwrap_err();
        assert!(refused.to_string().contains("crit"), "{refused}");
    }
}
