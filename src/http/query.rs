//! Query strings, parsed like bodies: an unknown or faulty parameter is an error. And cursors.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web::Query};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use oriva_hub_actors::model::{Invalid, Timestamp};

use super::{body::Fields, problem::Problem};
use crate::store::FaultyField;

/// The parameters of a query string, in their order.
#[derive(Debug)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Parses a query string. A `%` without two hexadecimal digits (RFC 3986 §2.1) is a fault: a decoder would pass over it,
    /// and a filter would mean something else than was written.
    ///
    /// # Errors
    /// The fault.
    pub fn parse(text: &str) -> Result<Self, FaultyField> {
        if !has_valid_escapes(text) {
            let rule = "must have two hexadecimal digits after each %; % itself is written %25";
            return Err(FaultyField::new("query", rule));
        }
        let not_text = || FaultyField::new("query", "must be UTF-8, percent-encoded");
        if !is_utf8(text) {
            return Err(not_text());
        }
        let parsed = Query::<Vec<(String, String)>>::from_query(text);
        parsed.map(|query| Self(query.into_inner())).map_err(|_| not_text())
    }
}

impl FromRequest for Parameters {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::parse(request.query_string()).map_err(|fault| Problem::invalid(vec![fault])))
    }
}

/// Whether a text with valid escapes is UTF-8 once they are decoded. The decoder replaces what is not, so a filter would look
/// for something else.
fn is_utf8(escaped: &str) -> bool {
    let mut parts = escaped.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        bytes.extend(u8::from_str_radix(digits, 16).ok());
        bytes.extend_from_slice(rest.as_bytes());
    }
    std::str::from_utf8(&bytes).is_ok()
}

/// Whether two hexadecimal digits follow each `%`.
pub(super) fn has_valid_escapes(text: &str) -> bool {
    let is_escape = |part: &str| part.len() >= 2 && part.bytes().take(2).all(|digit| digit.is_ascii_hexdigit());
    text.split('%').skip(1).all(is_escape)
}

/// Splits the parameters. A repeated one is a fault, except those of `repeatable`, whose values are returned in that order.
pub fn fields<const N: usize>(parameters: Parameters, repeatable: [&str; N]) -> (Fields<'static>, [Vec<String>; N]) {
    let mut values = [const { Vec::new() }; N];
    let mut once = Vec::new();
    for (name, value) in parameters.0 {
        match repeatable.iter().position(|one| *one == name) {
            Some(place) => values[place].push(value),
            None => once.push((name, value)),
        }
    }
    (Fields::of_parameters(once), values)
}

/// Parses the values of a repeatable parameter, sorted and each once. Every fault is noted.
pub fn each<T: Ord>(
    fields: &mut Fields<'_>,
    name: &str,
    values: &[String],
    parse: impl Fn(&str) -> Result<T, Invalid>,
) -> Vec<T> {
    let mut parsed = Vec::with_capacity(values.len());
    for value in values {
        match parse(value) {
            Ok(value) => parsed.push(value),
            Err(Invalid(rule)) => fields.fault(name, &rule),
        }
    }
    parsed.sort_unstable();
    parsed.dedup();
    parsed
}

/// A rule for whole numbers.
pub fn number(range: std::ops::RangeInclusive<u64>) -> impl FnOnce(&str) -> Result<u64, Invalid> {
    move |text| match text.parse::<u64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(Invalid(format!("must be a whole number from {} to {}", range.start(), range.end()))),
    }
}

/// `limit` and `offset`.
pub fn window(fields: &mut Fields<'_>, default: u64, max: u64) -> (u32, u64) {
    let limit = fields.optional("limit", number(1..=max)).unwrap_or(default);
    // Half of the range, so that the sum of both still fits a `bigint`.
    let offset = fields.optional("offset", number(0..=i64::MAX.unsigned_abs() / 2)).unwrap_or(0);
    (u32::try_from(limit).unwrap_or(1), offset)
}

/// `cursor`: where the page before ended; empty for the first page. To send it with `offset` is a fault.
pub fn cursor<T>(fields: &mut Fields<'_>, offset: u64, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let place =
        fields.optional("cursor", |text| if text.is_empty() { Ok(None) } else { decode(text, parse).map(Some) });
    let place = place.flatten();
    if place.is_some() && offset > 0 {
        fields.fault("offset", "does not go with cursor");
    }
    place
}

/// A moment of a cursor, if the hub can have written it. PostgreSQL does not know all others.
pub fn moment(unix_ms: i64) -> Option<Timestamp> {
    let (year_1970, year_10000) = (0, 253_402_300_800_000);
    (year_1970..year_10000).contains(&unix_ms).then(|| Timestamp::from_unix_ms(unix_ms))
}

/// Encodes a cursor. It is opaque to clients, and has a version so that a later hub can change it.
pub fn encode(place: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("1:{place}"))
}

fn decode<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Invalid> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.as_deref()
        .and_then(|text| text.strip_prefix("1:"))
        .and_then(parse)
        .ok_or_else(|| Invalid("must be the next_cursor of an earlier answer".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_decoder_would_pass_over_is_a_fault() {
        for good in ["", "a=b", "a=%E2%82%AC&b=%25", "a=%41"] {
            assert!(Parameters::parse(good).is_ok(), "{good}");
        }
        for bad in ["a=%", "a=%2", "a=%zz", "a=%ff", "a=%E2%82", "%=b"] {
            assert!(Parameters::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cursor_comes_back_and_a_made_up_one_does_not() {
        let parse = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
        assert_eq!(decode(&encode("42"), parse), Ok(42));
        for bad in ["", "42", "!!", &encode("-3"), &encode("99999999999999999999"), &encode("")] {
            assert!(decode(bad, parse).is_err(), "{bad}");
        }
    }
}
