//! JSON objects that the hub passes on: kept as the text that the client wrote.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, value::RawValue};
use utoipa::ToSchema;

use super::{
    Invalid,
    json::{Entry, entries},
};

/// Greatest number of objects and arrays inside each other. Common JSON parsers stop near it.
const MAX_DEPTH: usize = 127;

/// A JSON object. It comes back as the client wrote it: the digits of numbers, the order of keys, keys that are there
/// twice, and blanks.
// As text: it is sent far more often than it is read.
#[derive(Debug, Clone, ToSchema)]
#[schema(value_type = Object)]
pub struct JsonObject(Box<RawValue>);

impl JsonObject {
    /// Takes an object from a client.
    ///
    /// # Errors
    /// [`Invalid`] where it is no object, is nested more than 127 levels deep, or has a string that is no Unicode text
    /// or has U+0000, which receivers and databases cannot hold.
    pub fn from_client(json: &RawValue) -> Result<Self, Invalid> {
        if !json.get().starts_with('{') {
            return Err(Invalid::new("must be an object"));
        }
        check(json.get())?;
        Ok(Self(json.to_owned()))
    }

    /// Encodes a value that serialises as a map. Anything else becomes an empty object.
    #[must_use]
    pub fn encode(value: &impl Serialize) -> Self {
        match serde_json::value::to_raw_value(value) {
            Ok(raw) if raw.get().starts_with('{') => Self(raw),
            _ => Self::empty(),
        }
    }

    /// Text from the store.
    ///
    /// # Errors
    /// [`Invalid`] where it is no JSON object.
    pub fn from_store(text: String) -> Result<Self, Invalid> {
        match RawValue::from_string(text) {
            Ok(raw) if raw.get().starts_with('{') => Ok(Self(raw)),
            _ => Err(Invalid::new("must be a JSON object")),
        }
    }

    /// `{}`.
    #[must_use]
    pub fn empty() -> Self {
        Self(RawValue::from_string("{}".to_owned()).expect("{} is JSON"))
    }

    /// Text that was parsed as JSON before.
    #[must_use]
    pub(crate) fn from_raw(raw: &RawValue) -> Self {
        Self(raw.to_owned())
    }

    /// The text, as the client wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Whether it has this key at its top level.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.entries().iter().any(|entry| entry.name == key)
    }

    /// The object with more fields. They replace those of the same names. Keys and values of the others stay as they
    /// were written.
    #[must_use]
    pub fn with_fields(&self, fields: &Map<String, Value>) -> Self {
        let mut text = String::with_capacity(self.as_str().len() + 64 * fields.len());
        for Entry { name, key, value } in self.entries() {
            if !fields.contains_key(&name) {
                text.extend([separator(&text), key.get(), ":", value.get()]);
            }
        }
        for (key, value) in fields {
            let (key, value) = (Value::from(key.as_str()).to_string(), value.to_string());
            text.extend([separator(&text), &key, ":", &value]);
        }
        text.push_str(if text.is_empty() { "{}" } else { "}" });
        Self(RawValue::from_string(text).expect("entries of objects are an object"))
    }

    fn entries(&self) -> Vec<Entry<'_>> {
        entries(self.as_str().as_bytes()).expect("an object was parsed as one before")
    }
}

fn separator(before: &str) -> &'static str {
    if before.is_empty() { "{" } else { "," }
}

impl Serialize for JsonObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Checks what JSON's grammar leaves open. `text` follows that grammar.
fn check(text: &str) -> Result<(), Invalid> {
    let (mut depth, mut bytes) = (0, text.bytes());
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' if depth == MAX_DEPTH => {
                return Err(Invalid::new("must not be nested more than 127 levels deep"));
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'"' => check_string(&mut bytes)?,
            _ => {}
        }
    }
    Ok(())
}

/// Checks a string up to its closing quote.
fn check_string(bytes: &mut std::str::Bytes<'_>) -> Result<(), Invalid> {
    let lone = || Invalid::new("must not contain half of a surrogate pair, such as \\ud800");
    let mut opened = false;
    while let Some(byte) = bytes.next() {
        let unit = match byte {
            b'\\' if bytes.next() == Some(b'u') => {
                Some(bytes.by_ref().take(4).fold(0, |unit, digit| unit * 16 + hex(digit)))
            }
            b'"' if !opened => return Ok(()),
            _ => None,
        };
        match unit {
            Some(0) => return Err(Invalid::new("must not contain the character U+0000")),
            Some(0xdc00..=0xdfff) if opened => opened = false,
            Some(0xd800..=0xdbff) if !opened => opened = true,
            Some(0xd800..=0xdfff) => return Err(lone()),
            _ if opened => return Err(lone()),
            _ => {}
        }
    }
    Ok(())
}

fn hex(digit: u8) -> u32 {
    char::from(digit).to_digit(16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn object(text: &str) -> JsonObject {
        JsonObject::from_client(&raw(text)).unwrap()
    }

    #[test]
    fn what_receivers_cannot_hold_is_refused() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(JsonObject::from_client(&raw(&nested(126))).is_ok());
        let nul = r#"{"a":"\u0000"}"#;
        for bad in ["[]", "1", r#""{""#, "null", &nested(127), nul, r#"{"\u0000":1}"#, r#"{"a":["\uD800"]}"#] {
            assert!(JsonObject::from_client(&raw(bad)).is_err(), "{bad}");
        }
        for lone in [r"\udc00", r"\ud800x", r"\ud800\n", r"\ud800\ud800", r"\ud83d\u0041", r"x\ud83d"] {
            assert!(JsonObject::from_client(&raw(&format!(r#"{{"a":"{lone}"}}"#))).is_err(), "{lone}");
        }
        for good in [r"\ud83d\ude00", r"\\u0000", r"\\ud800", r#"\"\\\"[[{"#, r"\u0001", "é\u{10ffff}"] {
            assert!(JsonObject::from_client(&raw(&format!(r#"{{"a":"{good}"}}"#))).is_ok(), "{good}");
        }
    }

    #[test]
    fn fields_are_added_after_the_objects_own_and_replace_them() {
        let added = serde_json::json!({"status": "read", "id": 7});
        let Value::Object(added) = added else { unreachable!() };
        let merged = object(r#"{"z" : 1.50, "st\u0061tus":"mine","z":2e400 , "\u0061":[ 1 ]}"#).with_fields(&added);
        assert_eq!(merged.as_str(), r#"{"z":1.50,"z":2e400,"\u0061":[ 1 ],"id":7,"status":"read"}"#);
        assert_eq!(object("{}").with_fields(&added).as_str(), r#"{"id":7,"status":"read"}"#);
        assert_eq!(object(r#"{"a":1}"#).with_fields(&Map::new()).as_str(), r#"{"a":1}"#);
        assert!(object(r#"{"\u0061":{"b":1}}"#).has("a") && !object(r#"{"a":{"b":1}}"#).has("b"));
    }

    proptest! {
        #[test]
        fn every_value_survives_a_merge_as_it_was_written(values in proptest::collection::vec("[0-9]{1,30}", 0..8)) {
            let entries: Vec<_> = values.iter().enumerate().map(|(n, digits)| format!("\"k{n}\":1{digits}")).collect();
            let text = format!("{{{}}}", entries.join(","));
            let merged = object(&text).with_fields(&Map::new());
            prop_assert_eq!(merged.as_str(), text.as_str());
        }
    }
}
