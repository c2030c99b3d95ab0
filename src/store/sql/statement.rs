//! A statement for either database: its text, and the values of its parameters `$1`, `$2`, … Both databases read that
//! form, so a statement is written once. Only [`Rows`] have placeholders of each database's own.

use std::{borrow::Cow, fmt::Write as _};

use oriva_hub_actors::model::Timestamp;
use uuid::Uuid;

/// The value of a parameter. What each database makes of it is said in `postgres/values.rs` and `sqlite/values.rs`.
#[derive(Debug, Clone)]
pub(in crate::store) enum Value<'q> {
    Text(Option<Cow<'q, str>>),
    Bytes(Option<Cow<'q, [u8]>>),
    Flag(Option<bool>),
    Small(Option<i16>),
    Big(Option<i64>),
    Id(Option<Uuid>),
    /// An array of values of one kind, for PostgreSQL alone: SQLite has no arrays.
    Array(Kind, Vec<Value<'q>>),
    Moment(Option<Timestamp>),
    /// A list of strings: an array, or JSON.
    Texts(Option<&'q [String]>),
}

/// The type of a column of [`Rows`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    Text,
    Bytes,
    Json,
    Address,
    Flag,
    Small,
    Big,
    Id,
    Moment,
}

/// Rows of values, as the source of an insert or update (see [`super::dialect::Dialect::with_rows`]).
#[derive(Debug)]
pub(in crate::store) struct Rows<'q> {
    pub(in crate::store) columns: &'static [(&'static str, Kind)],
    /// Row by row.
    pub(in crate::store) values: Vec<Value<'q>>,
}

impl<'q> Rows<'q> {
    pub(in crate::store) fn new(columns: &'static [(&'static str, Kind)]) -> Self {
        Self { columns, values: Vec::new() }
    }

    /// Adds a row: one value for each column.
    pub(in crate::store) fn push<const N: usize>(&mut self, row: [Value<'q>; N]) {
        assert_eq!(N, self.columns.len(), "a row has a value for each column");
        self.values.extend(row);
    }

    /// One array for each column.
    pub(in crate::store) fn into_arrays(self) -> Vec<(Kind, Value<'q>)> {
        let mut arrays: Vec<Vec<Value<'q>>> = self.columns.iter().map(|_| Vec::new()).collect();
        for (index, value) in self.values.into_iter().enumerate() {
            arrays[index % self.columns.len()].push(value);
        }
        let kinds = self.columns.iter().map(|(_, kind)| *kind);
        kinds.zip(arrays).map(|(kind, array)| (kind, Value::Array(kind, array))).collect()
    }

    /// The names of the columns, with commas between them.
    pub(in crate::store) fn names(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// A statement with its values.
#[derive(Debug, Clone)]
pub(in crate::store) struct Statement<'q> {
    pub(in crate::store) sql: String,
    pub(in crate::store) values: Vec<Value<'q>>,
}

impl<'q> Statement<'q> {
    /// Begins with this text.
    pub(in crate::store) fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), values: Vec::new() }
    }

    /// Adds the value of the next parameter of a text that has its placeholders already.
    pub(in crate::store) fn bind(mut self, value: impl Into<Value<'q>>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Appends text.
    pub(in crate::store) fn push(&mut self, sql: impl AsRef<str>) -> &mut Self {
        self.sql.push_str(sql.as_ref());
        self
    }

    /// Appends a placeholder and its value.
    pub(in crate::store) fn push_bind(&mut self, value: impl Into<Value<'q>>) -> &mut Self {
        self.values.push(value.into());
        let _ = write!(self.sql, "${}", self.values.len());
        self
    }

    /// Appends `(…, …)` with a placeholder for each value.
    pub(in crate::store) fn push_list<V: Into<Value<'q>>>(&mut self, values: impl IntoIterator<Item = V>) -> &mut Self {
        self.push("(");
        for (index, value) in values.into_iter().enumerate() {
            if index > 0 {
                self.push(", ");
            }
            self.push_bind(value);
        }
        self.push(")")
    }
}

/// Greatest number of rows in one statement.
const LONGEST_RUN: usize = 128;

/// The length of the first run of so many rows: a power of two. So there are few statements for many rows, and few
/// different texts to prepare.
pub(in crate::store) fn run_length(rows: usize) -> usize {
    rows.checked_ilog2().map_or(0, |log| LONGEST_RUN.min(1 << log))
}

/// Cuts rows into runs, longest first.
pub(in crate::store) fn runs<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let (run, rest) = rows.split_at(run_length(rows.len()));
        rows = rest;
        (!run.is_empty()).then_some(run)
    })
}

macro_rules! values {
    ($($from:ty => $variant:ident;)*) => {$(
        impl<'q> From<$from> for Value<'q> {
            fn from(value: $from) -> Self {
                Self::$variant(Some(value.into()))
            }
        }
        impl<'q> From<Option<$from>> for Value<'q> {
            fn from(value: Option<$from>) -> Self {
                Self::$variant(value.map(Into::into))
            }
        }
    )*};
}
values! {
    &'q str => Text;
    String => Text;
    &'q [u8] => Bytes;
    bool => Flag;
    i16 => Small;
    i64 => Big;
    Uuid => Id;
    Timestamp => Moment;
    &'q [String] => Texts;
}

impl<'q> From<&'q Option<String>> for Value<'q> {
    fn from(text: &'q Option<String>) -> Self {
        Self::Text(text.as_deref().map(Cow::Borrowed))
    }
}

impl<'q> From<&'q String> for Value<'q> {
    fn from(text: &'q String) -> Self {
        Self::Text(Some(Cow::Borrowed(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_numbered_in_the_order_of_their_values() {
        let mut statement = Statement::new("select ").bind(1_i64);
        statement.push_bind("a").push(" in ").push_list([1_i64, 2]);
        assert_eq!(statement.sql, "select $2 in ($3, $4)");
        assert_eq!(statement.values.len(), 4);
    }

    #[test]
    fn runs_are_powers_of_two_and_hold_every_row_once() {
        for count in [0, 1, 2, 3, 31, 32, 127, 128, 129, 1000] {
            let rows: Vec<usize> = (0..count).collect();
            let cut: Vec<&[usize]> = runs(&rows).collect();
            assert!(cut.iter().all(|run| run.len().is_power_of_two() && run.len() <= 128));
            assert_eq!(cut.concat(), rows);
        }
    }
}
