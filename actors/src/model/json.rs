//! Parsing of JSON that clients sent.
//!
//! With its `raw_value` feature, `serde_json` treats an object with one reserved key as a raw value: it parses the text
//! under that key again, and starts its limit on nesting anew. So a client could make the hub read other JSON than it
//! sent, nested until the stack overflows. Everything from a client is therefore parsed here.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, value::RawValue};

/// Parses JSON from a client that the hub reads itself. What it only passes on is a [`super::JsonObject`].
///
/// # Errors
/// Where it is not JSON, an object has a key twice, it is nested more than 127 levels deep, or a number is beyond the
/// range of an `f64`.
pub fn parse_json(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice::<Plain>(text).map(|Plain(value)| value)
}

/// An entry of an object.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The key as text.
    pub name: String,
    /// The key as it was written: in quotes, with its escapes.
    pub key: &'a RawValue,
    /// The value as it was written. Its grammar was checked, but nothing else.
    pub value: &'a RawValue,
}

/// Splits an object into its entries, in their order. Keys that are there twice are all returned.
///
/// # Errors
/// Where it is not JSON. Where it is no object, the error's category is [`serde_json::error::Category::Data`].
pub fn entries(object: &[u8]) -> Result<Vec<Entry<'_>>, serde_json::Error> {
    let Entries(pairs) = serde_json::from_slice(object)?;
    pairs.into_iter().map(|(key, value)| Ok(Entry { name: serde_json::from_str(key.get())?, key, value })).collect()
}

/// A whole number that is not negative, in whatever notation: JSON has no integers, and some languages write `60.0`.
#[must_use]
pub fn whole_number(value: &Value) -> Option<u64> {
    // The greatest number up to which an `f64` represents every integer.
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..=MAX_EXACT).contains(number))?;
        Some(number as u64)
    })
}

struct Plain(Value);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor).map(Self)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Number::from_f64(number).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(Plain(item)) = items.next_element()? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some((key, Plain(value))) = entries.next_entry::<String, Plain>()? {
            if out.contains_key(&key) {
                return Err(A::Error::custom(format_args!("{key:?} is given twice")));
            }
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

struct Entries<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_as_it_is_everywhere() {
        for text in [r#"{"a":[1,-2,3.5,true,null,"é\n"],"b":{}}"#, "[]", r#""x""#, "18446744073709551615"] {
            assert_eq!(parse_json(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        }
        for bad in ["", "{", "[1,]", "1e999", "{1:2}", "nul", r#"{"a":1,"\u0061":2}"#] {
            assert!(parse_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_object_is_split_into_what_was_written() {
        let text = br#" {"b":1.0, "\u0061" : [ 1e400 ],"b":{"$serde_json::private::RawValue":"{bad"}} "#;
        let found = entries(text).unwrap();
        let found: Vec<_> = found.iter().map(|entry| (&*entry.name, entry.key.get(), entry.value.get())).collect();
        let last = r#"{"$serde_json::private::RawValue":"{bad"}"#;
        assert_eq!(found, [("b", r#""b""#, "1.0"), ("a", r#""\u0061""#, "[ 1e400 ]"), ("b", r#""b""#, last)]);
        for bad in [r#"{"a":01}"#, r#"{"a":"\x"}"#, r#"{"a":[1}"#, r#"{"a":1}x"#, r#"{"\ud800":1}"#, "{\"a\":\"\n\"}"] {
            assert!(!entries(bad.as_bytes()).unwrap_err().is_data(), "{bad}");
        }
        assert!(entries(b"[]").unwrap_err().is_data());
        assert!(entries(b"{\"a\":\"\xff\"}").is_err(), "not UTF-8");
    }

    #[test]
    fn a_reserved_key_is_a_key_like_any_other() {
        let text = r#"{"$serde_json::private::RawValue":"{\"a\":1}","b":{"$serde_json::private::RawValue":"{bad"}}"#;
        let value = parse_json(text.as_bytes()).unwrap();
        assert_eq!(value["$serde_json::private::RawValue"], r#"{"a":1}"#);
        assert_eq!(value["b"]["$serde_json::private::RawValue"], "{bad");
        assert_eq!(serde_json::to_string(&value).unwrap(), text);
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse_json(nested(127).as_bytes()).is_ok());
        assert!(parse_json(nested(128).as_bytes()).is_err());
        let mut text = "1".to_owned();
        for _ in 0..12 {
            let inner = format!("{}{text}{}", "[".repeat(100), "]".repeat(100));
            text = serde_json::json!({"$serde_json::private::RawValue": inner}).to_string();
        }
        assert!(parse_json(text.as_bytes()).unwrap().is_object());
    }
}
