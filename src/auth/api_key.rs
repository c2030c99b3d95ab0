//! API keys: `ohk_` and 43 base-62 characters. The last 6 are a checksum, so a mistyped key is refused without asking
//! the store, and scanners can recognise a leaked one.

use std::fmt;

use sha2::{Digest, Sha256};

const PREFIX: &str = "ohk_";
const RANDOM: usize = 37;
const CHECKSUM: usize = 6;
/// Prefix of a key that is stored and shown, to tell keys apart.
const SHOWN: usize = 12;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key's text. Shown once, never stored, never logged.
pub struct ApiKeySecret(String);

impl ApiKeySecret {
    /// A new key: 37 random characters, 220 bits.
    #[must_use]
    pub fn generate() -> Self {
        let random: String = (0..RANDOM).map(|_| char::from(DIGITS[rand::random_range(0..DIGITS.len())])).collect();
        Self(format!("{PREFIX}{random}{}", checksum(&random)))
    }

    /// Parses a key. `None` if its form or checksum is wrong.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(PREFIX)?;
        if body.len() != RANDOM + CHECKSUM || !body.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        let (random, sum) = body.split_at(RANDOM);
        (checksum(random) == sum).then(|| Self(text.to_owned()))
    }

    /// SHA-256 of the text. A slow hash is not needed for 220 random bits.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// The first characters, by which people recognise a key.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0[..SHOWN]
    }

    /// The text, for the one time that it is shown.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKeySecret(********)")
    }
}

/// CRC-32 in six base-62 digits.
fn checksum(random: &str) -> String {
    let mut rest = crc32fast::hash(random.as_bytes()) as usize;
    let mut digits = [b'0'; CHECKSUM];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[rest % DIGITS.len()];
        rest /= DIGITS.len();
    }
    digits.iter().copied().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_has_the_contracts_form() {
        let key = ApiKeySecret::generate();
        assert_eq!(key.expose().len(), 47);
        assert!(ApiKeySecret::parse(key.expose()).is_some());
        assert_ne!(key.hash(), ApiKeySecret::generate().hash());
    }

    #[test]
    fn a_mistyped_key_is_noticed() {
        let key = ApiKeySecret::generate();
        for index in 4..47 {
            let mut text = key.expose().to_owned().into_bytes();
            text[index] = if text[index] == b'x' { b'y' } else { b'x' };
            assert!(ApiKeySecret::parse(&String::from_utf8(text).unwrap()).is_none(), "at {index}");
        }
        assert!(ApiKeySecret::parse("ohk_").is_none());
        assert!(ApiKeySecret::parse(&key.expose()[1..]).is_none());
    }
}
