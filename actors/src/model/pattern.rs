//! Patterns for full event types. Sockets and webhooks subscribe with them (contract §5).

use std::fmt;

use super::{Category, Invalid};

/// Greatest number of patterns of one socket or webhook.
pub const MAX_PATTERNS: usize = 100;

const MAX_LENGTH: usize = 128;

/// A pattern: `*` matches one segment, a final `.**` one segment or more, and `*` or `**` alone matches everything. A category
/// alone, as clients of the original platform write it, is the same as with `.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPattern {
    text: Box<str>,
    shape: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    All,
    Category,
    Exact,
    Segments { open_ended: bool },
}

impl EventPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`Invalid`] with the rule.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let rule = || {
            Invalid::new(
                "must be a full event type such as notification.dismissed; * stands for one segment, a closing .** for one \
                 or more, and ** alone for everything",
            )
        };
        let word =
            |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let shape = if text == "*" || text == "**" {
            Shape::All
        } else if Category::parse(text).is_ok() {
            Shape::Category
        } else if text.len() > MAX_LENGTH {
            return Err(rule());
        } else {
            let (body, open_ended) = text.strip_suffix(".**").map_or((text, false), |body| (body, true));
            if !body.split('.').all(|segment| segment == "*" || word(segment)) {
                return Err(rule());
            }
            if open_ended || body.split('.').any(|segment| segment == "*") {
                Shape::Segments { open_ended }
            } else {
                Shape::Exact
            }
        };
        Ok(Self { text: text.into(), shape })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a full event type such as `notification.dismissed` matches.
    #[must_use]
    pub fn matches(&self, full_type: &str) -> bool {
        match self.shape {
            Shape::All => true,
            Shape::Exact => *self.text == *full_type,
            Shape::Category => {
                full_type.split_once('.').is_some_and(|(category, bare)| category == &*self.text && !bare.contains('.'))
            }
            Shape::Segments { open_ended } => {
                let body = if open_ended { &self.text[..self.text.len() - 3] } else { &self.text };
                let mut segments = full_type.split('.');
                let matched =
                    body.split('.').all(|want| segments.next().is_some_and(|have| want == "*" || want == have));
                matched && segments.next().is_some() == open_ended
            }
        }
    }
}

impl EventPattern {
    /// Whether any event's full type could match: it has a category, and something after it.
    #[must_use]
    pub fn can_match(&self) -> bool {
        if matches!(self.shape, Shape::All | Shape::Category) {
            return true;
        }
        self.text.split_once('.').is_some_and(|(category, _)| category == "*" || Category::parse(category).is_ok())
    }
}

/// A warning for those of the patterns that no event can match, most often because the category is missing. `None` if
/// there are none.
pub fn unmatchable_patterns<'a>(patterns: impl IntoIterator<Item = &'a EventPattern>) -> Option<String> {
    let futile: Vec<&str> =
        patterns.into_iter().filter(|pattern| !pattern.can_match()).map(EventPattern::as_str).collect();
    (!futile.is_empty()).then(|| {
        format!(
            "no event can match {}: a full type begins with its category, notification, user, session or transaction",
            futile.join(", ")
        )
    })
}

impl fmt::Display for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_segment_by_segment() {
        for (pattern, full_type, expected) in [
            ("notification.dismissed", "notification.dismissed", true),
            ("notification.dismissed", "notification.dismissed.late", false),
            ("notification.*", "notification.created", true),
            ("notification.*", "notification.created.late", false),
            ("notification.*", "notification", false),
            ("notification.**", "notification.created.late", true),
            ("notification.**", "notification", false),
            ("notification", "notification.created", true),
            ("notification", "notification.created.late", false),
            ("notification", "user.created", false),
            ("*.created", "user.created", true),
            ("*.created", "user.updated", false),
            ("*.*", "user.updated", true),
            ("*", "anything.at.all", true),
            ("**", "anything", true),
        ] {
            assert_eq!(EventPattern::parse(pattern).unwrap().matches(full_type), expected, "{pattern} {full_type}");
        }
    }

    #[test]
    fn what_has_no_category_matches_no_event() {
        let parse = |text| EventPattern::parse(text).unwrap();
        for good in
            ["*", "**", "*.created", "*.*", "*.**", "notification.**", "notification", "transaction.order.*", "user.a"]
        {
            assert!(parse(good).can_match(), "{good}");
        }
        let futile = ["notifications", "created", "order.*", "orders.**", "notifications.created"].map(parse);
        assert!(futile.iter().all(|pattern| !pattern.can_match()));
        let warning = unmatchable_patterns(futile.iter().chain(&[parse("user.a")])).unwrap();
        assert!(warning.contains("notifications, created, order.*, orders.**, notifications.created: "), "{warning}");
        assert_eq!(unmatchable_patterns(&[parse("user.a")]), None);
    }

    #[test]
    fn what_no_type_could_match_is_refused() {
        for bad in ["", ".", "a.", "**.a", "a.**.b", "a*", "A.b", "a b", "a-b", &"a".repeat(129)] {
            assert!(EventPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
