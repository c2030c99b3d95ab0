//! Moments as the wire shows them: RFC 3339, UTC, milliseconds.

use std::fmt;

use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

use super::Invalid;

/// A moment in UTC with millisecond precision, so that an answer and the stored row are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-01-02T03:04:05.678Z")]
pub struct Timestamp(DateTime<Utc>);

impl Timestamp {
    /// The current time by the wall clock. Actors must not use it: they use tokio's clock, which tests can pause.
    #[must_use]
    pub fn now() -> Self {
        Self::from(Utc::now())
    }

    /// Parses RFC 3339 with any offset.
    ///
    /// # Errors
    /// [`Invalid`] with the rule, when `text` is not such a timestamp.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        // After conversion to UTC the year must still have four digits.
        DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|time| Self::from(time.to_utc()))
            .filter(|moment| (0..=9999).contains(&moment.0.year()))
            .ok_or_else(|| Invalid::new("must be an RFC 3339 timestamp such as 2026-01-02T03:04:05.678Z"))
    }

    /// The moment, in the form that chrono and sqlx use.
    #[must_use]
    pub fn as_datetime(self) -> DateTime<Utc> {
        self.0
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn unix_ms(self) -> i64 {
        self.0.timestamp_millis()
    }

    /// `ms` milliseconds after 1970-01-01T00:00:00Z, or 1970 itself if chrono cannot represent the moment.
    #[must_use]
    pub fn from_unix_ms(ms: i64) -> Self {
        Self(DateTime::from_timestamp_millis(ms).unwrap_or_default())
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        // A leap second becomes the following second, because Unix time does not count it.
        Self::from_unix_ms(time.timestamp_millis())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_in_utc_with_milliseconds() {
        let time = Timestamp::parse("2026-01-02T04:04:05.6789+01:00").unwrap();
        assert_eq!(time.to_string(), "2026-01-02T03:04:05.678Z");
        assert_eq!(Timestamp::from_unix_ms(time.unix_ms()), time);
        assert!(Timestamp::parse("2026-01-02").is_err());
        assert_eq!(Timestamp::parse("2027-06-30T12:00:60.5Z").unwrap().to_string(), "2027-06-30T12:01:00.500Z");
        assert!(Timestamp::parse("9999-12-31T23:59:60Z").is_err(), "there is no year 10000");
    }
}
