//! User tokens: JWTs signed with HS256 (RFC 7519), for one user on one device.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use oriva_hub_actors::model::{AppId, Timestamp, UserId};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
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
    /// It was not made by this hub, or was changed.
    #[error("the token is not valid")]
    Invalid,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    app: String,
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
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.set_required_spec_claims(&["exp", "sub"]);
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
        let claims = Claims {
            sub: user.as_str().to_owned(),
            app: app.as_str().to_owned(),
            exp: expires,
            iat: issued,
            jti: Uuid::now_v7(),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(|_| TokenError::Invalid)?;
        Ok((token, Timestamp::from_unix_ms(expires * 1000)))
    }

    /// Verifies signature, expiry and form.
    ///
    /// # Errors
    /// [`TokenError::Expired`] only for a token that was valid once.
    pub fn verify(&self, token: &str) -> Result<UserToken, TokenError> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => TokenError::Expired,
                _ => TokenError::Invalid,
            })?
            .claims;
        // A token must not be accepted "on or after" its `exp` (RFC 7519 §4.1.4).
        if claims.exp <= Timestamp::now().unix_ms() / 1000 {
            return Err(TokenError::Expired);
        }
        Ok(UserToken {
            user: UserId::parse(&claims.sub).map_err(|_| TokenError::Invalid)?,
            app: AppId::parse(&claims.app).map_err(|_| TokenError::Invalid)?,
            expires_at: Timestamp::from_unix_ms(claims.exp.saturating_mul(1000)),
        })
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

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
}
