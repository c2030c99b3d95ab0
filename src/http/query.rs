//! Query strings, parsed like bodies: an unknown or faulty parameter is an error. And cursors.

use actix_web::web::Query;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use oriva_hub_actors::model::{Invalid, Timestamp};

use super::body::Fields;

/// A query string as actix-web parses it.
pub type Parameters = Query<Vec<(String, String)>>;

/// Splits the parameters. A repeated one is a fault, except `repeatable`, whose values are returned.
pub fn fields(parameters: Parameters, repeatable: Option<&str>) -> (Fields<'static>, Vec<String>) {
    let (values, once): (Vec<_>, Vec<_>) =
        parameters.into_inner().into_iter().partition(|(name, _)| Some(&**name) == repeatable);
    (Fields::of_parameters(once), values.into_iter().map(|(_, value)| value).collect())
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

/// `cursor`: where the page before ended. To send it with `offset` is a fault.
pub fn cursor<T>(fields: &mut Fields<'_>, offset: u64, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let place = fields.optional("cursor", |text| decode(text, parse));
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
    fn a_cursor_comes_back_and_a_made_up_one_does_not() {
        let parse = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
        assert_eq!(decode(&encode("42"), parse), Ok(42));
        for bad in ["", "42", "!!", &encode("-3"), &encode("99999999999999999999"), &encode("")] {
            assert!(decode(bad, parse).is_err(), "{bad}");
        }
    }
}
