//! The status of a notification and the table of its moves (contract §6). Pure.

use oriva_hub_actors::model::Invalid;
use serde::Serialize;
use utoipa::ToSchema;

/// The status of a notification with its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nobody has looked at it.
    Unread,
    /// The user has seen it.
    Read,
    /// The user has followed it.
    Clicked,
    /// The user has put it away.
    Dismissed,
    /// Its time is over.
    Expired,
}

/// A move that is not in the table of contract §6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a notification that is {} cannot become {}", from.as_str(), to.as_str())]
pub struct InvalidTransition {
    /// The status that it has.
    pub from: Status,
    /// The status that was asked for.
    pub to: Status,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Unread, Self::Read, Self::Clicked, Self::Dismissed, Self::Expired];
    /// The statuses in a feed without a filter.
    pub const SHOWN: [Self; 4] = [Self::Unread, Self::Read, Self::Clicked, Self::Dismissed];

    /// The name, as clients write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unread => "unread",
            Self::Read => "read",
            Self::Clicked => "clicked",
            Self::Dismissed => "dismissed",
            Self::Expired => "expired",
        }
    }

    /// The status that has this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Parses the name of a status.
    ///
    /// # Errors
    /// [`Invalid`] with the names.
    pub fn parse(name: &str) -> Result<Self, Invalid> {
        Self::from_name(name)
            .ok_or_else(|| Invalid("must be one of unread, read, clicked, dismissed, expired".to_owned()))
    }

    /// Whether no other status can follow.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Dismissed | Self::Expired)
    }

    /// Returns whether the move to `to` changes anything. The same status again changes nothing, so repeats are
    /// harmless, and the first of two dismissals wins.
    ///
    /// # Errors
    /// [`InvalidTransition`] if the table has no such move.
    pub fn transition(self, to: Self) -> Result<bool, InvalidTransition> {
        if self == to {
            return Ok(false);
        }
        // The variants are in the order of life, so every move goes forward.
        if self.is_final() || to < self { Err(InvalidTransition { from: self, to }) } else { Ok(true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_states_is_decided() {
        use Status::{Clicked, Dismissed, Expired, Read, Unread};
        let (yes, same, no) = (Some(true), Some(false), None);
        let table = [
            //           unread read clicked dismissed expired
            (Unread, [same, yes, yes, yes, yes]),
            (Read, [no, same, yes, yes, yes]),
            (Clicked, [no, no, same, yes, yes]),
            (Dismissed, [no, no, no, same, no]),
            (Expired, [no, no, no, no, same]),
        ];
        for (from, row) in table {
            for (to, expected) in Status::ALL.into_iter().zip(row) {
                assert_eq!(from.transition(to).ok(), expected, "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn a_refused_move_names_both() {
        let refused = Status::Dismissed.transition(Status::Read).unwrap_err();
        assert_eq!(refused.to_string(), "a notification that is dismissed cannot become read");
    }

    #[test]
    fn names_come_back() {
        for status in Status::ALL {
            assert_eq!(Status::from_name(status.as_str()), Some(status));
        }
        assert_eq!(Status::from_name("gone"), None);
    }
}
