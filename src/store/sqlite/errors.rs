//! What SQLite and its driver report, in the store's words.

use sqlx::{Error, error::ErrorKind, migrate::MigrateError};

use crate::store::{Outage, StoreError};

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match &error {
            Error::Database(cause) => match cause.kind() {
                ErrorKind::UniqueViolation => Self::Duplicate,
                ErrorKind::ForeignKeyViolation => Self::InUse,
                _ => match cause.code().as_deref() {
                    // The extended code of a restricted delete. SQLite counts it as a trigger.
                    Some("1811") => Self::InUse,
                    code => match code.and_then(outage) {
                        Some(outage) => Self::Unavailable(outage, Some(error.into())),
                        None => Self::failed(error),
                    },
                },
            },
            Error::PoolTimedOut => Self::Unavailable(Outage::Exhausted, None),
            Error::PoolClosed => Self::Unavailable(Outage::Closed, None),
            Error::Io(_) | Error::WorkerCrashed => Self::Unavailable(Outage::Lost, Some(error.into())),
            _ => Self::failed(error),
        }
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(version) => Self::Newer(version),
            MigrateError::Execute(error) => error.into(),
            other => Self::Migration(other.into()),
        }
    }
}

/// What a result code says of the database as a whole, if anything. The low byte of an extended code is the code
/// (SQLite's documentation, "Result and Error Codes").
fn outage(code: &str) -> Option<Outage> {
    Some(match code.parse::<u32>().ok()? & 0xff {
        5 | 6 => Outage::Locked,
        8 => Outage::ReadOnly,
        9 => Outage::TooSlow,
        10 | 14 => Outage::Broken,
        13 => Outage::Full,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_codes_mean_what_their_low_byte_says() {
        // Busy with a snapshot, writing and syncing failed, read-only because the file was moved.
        let codes = ["517", "778", "1034", "1032", "13"];
        let expected = [Outage::Locked, Outage::Broken, Outage::Broken, Outage::ReadOnly, Outage::Full];
        assert_eq!(codes.map(|code| outage(code).unwrap()), expected);
        // An error in SQL, a corrupt file, a constraint.
        assert_eq!(["1", "11", "2067"].map(outage), [None; 3]);
    }
}
