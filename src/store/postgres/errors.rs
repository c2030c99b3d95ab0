//! What PostgreSQL and its driver report, in the store's words.

use sqlx_pg::{Error, error::ErrorKind, migrate::MigrateError, postgres::PgConnectOptions};

use crate::store::{Outage, StoreError};

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match &error {
            Error::Database(cause) => {
                let meaning = match cause.kind() {
                    ErrorKind::UniqueViolation => return Self::Duplicate,
                    ErrorKind::ForeignKeyViolation => return Self::InUse,
                    _ => cause.code().map_or(Meaning::Failed, |code| meaning(&code)),
                };
                match meaning {
                    Meaning::Contended => Self::Contended,
                    Meaning::Outage(outage) => Self::Unavailable(outage, Some(error.into())),
                    Meaning::Failed => Self::failed(error),
                }
            }
            Error::Io(_) | Error::Protocol(_) => Self::Unavailable(Outage::Lost, Some(error.into())),
            Error::Tls(_) => Self::Unavailable(Outage::Unreachable, Some(error.into())),
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

/// A connection that could not be made was not lost: nothing was sent.
pub(super) fn not_connected(error: Error, options: &PgConnectOptions) -> StoreError {
    let at = match options.get_socket() {
        Some(path) => path.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    match StoreError::from(error) {
        StoreError::Unavailable(Outage::Lost | Outage::Unreachable, cause) => {
            let cause = cause.map_or_else(String::new, |cause| cause.to_string());
            StoreError::Unavailable(Outage::Unreachable, Some(format!("{at}: {cause}").into()))
        }
        other => other,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Contended,
    Outage(Outage),
    Failed,
}

/// What an SQLSTATE means (PostgreSQL's documentation, appendix A).
fn meaning(code: &str) -> Meaning {
    Meaning::Outage(match code {
        // Serialisation failure, deadlock.
        "40001" | "40P01" => return Meaning::Contended,
        // Invalid password or authorisation; no such database.
        "28P01" | "28000" | "3D000" => Outage::Refused,
        "25006" => Outage::ReadOnly,
        "53100" => Outage::Full,
        "53300" => Outage::TooManyConnections,
        "55P03" => Outage::Locked,
        "57014" => Outage::TooSlow,
        // It starts, or is about to end: it works on nothing.
        "57P03" => Outage::Unreachable,
        // The server ended the session: idle in a transaction, or a transaction that was too long.
        "25P03" | "25P04" => Outage::Lost,
        _ => match code.get(..2) {
            Some("08" | "57") => Outage::Lost,
            Some("40" | "53" | "58") => Outage::Broken,
            _ => return Meaning::Failed,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_is_broken() {
        for (code, outage) in [
            ("08006", Outage::Lost),
            ("57P01", Outage::Lost),
            ("53100", Outage::Full),
            ("53200", Outage::Broken),
            ("58030", Outage::Broken),
            ("25006", Outage::ReadOnly),
            ("55P03", Outage::Locked),
        ] {
            assert_eq!(meaning(code), Meaning::Outage(outage), "{code}");
        }
        assert_eq!(meaning("40001"), Meaning::Contended);
        // A value too long, no such table, no right.
        for code in ["22001", "42P01", "42501", "", "4"] {
            assert_eq!(meaning(code), Meaning::Failed, "{code}");
        }
    }
}
