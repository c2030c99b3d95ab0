//! Sealing of secrets in the store: XChaCha20-Poly1305 under `auth.encryption_key`. A sealed text names its key, so the
//! key can be replaced while texts under the old one exist.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

/// The layout's version, the first byte.
const VERSION: u8 = 1;
const KEY_ID: usize = 8;
const NONCE: usize = 24;

/// A sealed text cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It was sealed with a key that is not configured.
    #[error("it was sealed under a key that is not configured")]
    UnknownKey,
    /// It is not what was sealed.
    #[error("it is damaged, or belongs to something else")]
    Damaged,
    /// A configured key is not 32 bytes of base64.
    #[error("auth.encryption_key must be base64 of 32 bytes")]
    BadKey,
}

struct Key {
    id: [u8; KEY_ID],
    cipher: XChaCha20Poly1305,
}

/// Seals under the first key; opens under any.
pub struct Sealer(Vec<Key>);

impl Sealer {
    /// The current key, then earlier ones.
    ///
    /// # Errors
    /// Where one is not base64 of 32 bytes.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a SecretString>) -> Result<Self, SealError> {
        let key = |text: &SecretString| {
            let bytes = BASE64_STANDARD.decode(text.expose_secret()).map_err(|_| SealError::BadKey)?;
            let cipher = XChaCha20Poly1305::new_from_slice(&bytes).map_err(|_| SealError::BadKey)?;
            let digest = Sha256::digest(&bytes);
            let mut id = [0; KEY_ID];
            id.copy_from_slice(&digest[..KEY_ID]);
            Ok(Key { id, cipher })
        };
        let keys = keys.into_iter().map(key).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(SealError::BadKey) } else { Ok(Self(keys)) }
    }

    /// Seals a text for `owner`. It can be opened only for the same owner.
    ///
    /// # Errors
    /// Where the text is longer than the cipher allows.
    pub fn seal(&self, text: &str, owner: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = self.0.first().ok_or(SealError::BadKey)?;
        let nonce: [u8; NONCE] = rand::random();
        let payload = Payload { msg: text.as_bytes(), aad: owner };
        let sealed = key.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| SealError::Damaged)?;
        Ok([&[VERSION][..], &key.id, &nonce, &sealed].concat())
    }

    /// # Errors
    /// [`SealError`].
    pub fn open(&self, sealed: &[u8], owner: &[u8]) -> Result<String, SealError> {
        let (id, rest) = parts(sealed).ok_or(SealError::Damaged)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE>().ok_or(SealError::Damaged)?;
        let key = self.0.iter().find(|key| key.id == id).ok_or(SealError::UnknownKey)?;
        let payload = Payload { msg: text, aad: owner };
        let text = key.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| SealError::Damaged)?;
        String::from_utf8(text).map_err(|_| SealError::Damaged)
    }

    /// Whether a text is sealed under an earlier key.
    #[must_use]
    pub fn is_stale(&self, sealed: &[u8]) -> bool {
        parts(sealed).is_none_or(|(id, _)| self.0.first().is_none_or(|key| key.id != id))
    }
}

fn parts(sealed: &[u8]) -> Option<(&[u8], &[u8])> {
    let (version, rest) = sealed.split_first()?;
    if *version == VERSION { rest.split_at_checked(KEY_ID) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SecretString {
        BASE64_STANDARD.encode([byte; 32]).into()
    }

    #[test]
    fn a_sealed_text_opens_for_its_owner_alone() {
        let sealer = Sealer::new([&key(1)]).unwrap();
        let sealed = sealer.seal("whsec_x", b"webhook 1").unwrap();
        assert!(!sealed.windows(5).any(|window| window == b"whsec"));
        assert_eq!(sealer.open(&sealed, b"webhook 1").as_deref(), Ok("whsec_x"));
        assert_eq!(sealer.open(&sealed, b"webhook 2"), Err(SealError::Damaged));
        for index in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[index] ^= 1;
            assert!(sealer.open(&damaged, b"webhook 1").is_err(), "byte {index}");
        }
        for cut in [0, 1, 9, 20, 33] {
            assert!(sealer.open(&sealed[..cut], b"webhook 1").is_err());
        }
    }

    #[test]
    fn a_key_can_be_changed() {
        let old = Sealer::new([&key(1)]).unwrap();
        let sealed = old.seal("whsec_x", b"w").unwrap();
        let both = Sealer::new([&key(2), &key(1)]).unwrap();
        assert_eq!(both.open(&sealed, b"w").as_deref(), Ok("whsec_x"));
        assert!(both.is_stale(&sealed) && !old.is_stale(&sealed));
        let resealed = both.seal("whsec_x", b"w").unwrap();
        let new = Sealer::new([&key(2)]).unwrap();
        assert_eq!(new.open(&resealed, b"w").as_deref(), Ok("whsec_x"));
        assert_eq!(new.open(&sealed, b"w"), Err(SealError::UnknownKey));
        assert!(Sealer::new([&SecretString::from("short")]).is_err());
    }
}
