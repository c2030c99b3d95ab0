//! The shared SQL in SQLite: values, rows, and the words that PostgreSQL has otherwise. Moments are milliseconds, ids
//! blobs of 16 bytes, lists and JSON text.

use async_trait::async_trait;
use oriva_hub_actors::model::Timestamp;
use sqlx::{
    Arguments as _, AssertSqlSafe, Row as _, Sqlite, SqliteConnection, Transaction,
    sqlite::{SqliteArguments, SqliteRow},
    types::Json,
};
use uuid::Uuid;

use crate::store::{
    StoreError,
    sql::{
        dialect::{Commit, Dialect, SqlRow, plain_columns},
        statement::{Rows, Statement, Value, run_length, runs},
    },
};

#[async_trait]
impl Dialect for Sqlite {
    type Connection = SqliteConnection;
    type Row = SqliteRow;
    type Transaction = Transaction<'static, Sqlite>;

    const NOW: &'static str = "cast(round(unixepoch('subsec') * 1000) as integer)";

    // A writing transaction has the whole file to itself.
    const LOCK_R_OR_SKIP: &'static str = "";
    const LOCK_S: &'static str = "";
    const LOCK_S_OR_SKIP: &'static str = "";
    const LOCK_W_SHARED: &'static str = "";
    const LOCK_FOR_UPDATE: &'static str = "";

    fn json(placeholder: &str) -> String {
        placeholder.to_owned()
    }

    fn json_text(column: &str) -> String {
        column.to_owned()
    }

    fn address_text(column: &str) -> String {
        column.to_owned()
    }

    fn address(placeholder: &str) -> String {
        placeholder.to_owned()
    }

    fn id_runs(ids: &[Uuid]) -> Vec<&[Uuid]> {
        runs(ids).collect()
    }

    fn push_any(statement: &mut Statement<'_>, column: &str, ids: &[Uuid]) {
        statement.push(column).push(" in ").push_list(ids.iter().copied());
    }

    fn with_rows<'q>(before: &str, rows: Rows<'q>, after: &str) -> Vec<Statement<'q>> {
        let width = rows.columns.len();
        // Placeholders without a number: SQLite searches the list of numbered ones for each that sqlx binds, so the cost of
        // a statement would grow with the square of its rows.
        let row = format!("({})", vec!["?"; width].join(", "));
        let mut values = rows.values.into_iter();
        let mut statements = Vec::new();
        while values.len() > 0 {
            let count = run_length(values.len() / width);
            let sql = format!("{before}values {}{after}", vec![&*row; count].join(", "));
            statements.push(Statement { sql, values: values.by_ref().take(count * width).collect() });
        }
        statements
    }

    async fn execute(connection: &mut SqliteConnection, statement: Statement<'_>) -> Result<u64, StoreError> {
        let (sql, arguments) = encode(statement)?;
        Ok(sqlx::query_with(AssertSqlSafe(sql), arguments).execute(connection).await?.rows_affected())
    }

    async fn fetch_optional(
        connection: &mut SqliteConnection,
        statement: Statement<'_>,
    ) -> Result<Option<SqliteRow>, StoreError> {
        let (sql, arguments) = encode(statement)?;
        Ok(sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_optional(connection).await?)
    }

    async fn fetch_all(
        connection: &mut SqliteConnection,
        statement: Statement<'_>,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let (sql, arguments) = encode(statement)?;
        Ok(sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(connection).await?)
    }
}

/// The text of a statement, and its values as SQLite takes them.
pub(super) fn encode(statement: Statement<'_>) -> Result<(String, SqliteArguments), StoreError> {
    let mut arguments = SqliteArguments::default();
    for value in statement.values {
        let added = match value {
            Value::Text(text) => arguments.add(text.map(std::borrow::Cow::into_owned)),
            Value::Bytes(bytes) => arguments.add(bytes.map(std::borrow::Cow::into_owned)),
            Value::Flag(flag) => arguments.add(flag),
            Value::Small(number) => arguments.add(number),
            Value::Big(number) => arguments.add(number),
            Value::Id(id) => arguments.add(id),
            Value::Array(..) => Err("SQLite has no arrays".into()),
            Value::Moment(moment) => arguments.add(moment.map(Timestamp::unix_ms)),
            Value::Texts(texts) => arguments.add(texts.map(Json)),
        };
        added.map_err(StoreError::failed)?;
    }
    Ok((statement.sql, arguments))
}

#[async_trait]
impl Commit for Transaction<'static, Sqlite> {
    async fn commit(self) -> Result<(), StoreError> {
        Ok(Transaction::commit(self).await?)
    }
}

impl SqlRow for SqliteRow {
    plain_columns!();

    fn moment(&self, column: usize) -> Result<Timestamp, StoreError> {
        Ok(Timestamp::from_unix_ms(self.try_get(column)?))
    }

    fn moment_or_null(&self, column: usize) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_unix_ms))
    }

    fn texts(&self, column: usize) -> Result<Vec<String>, StoreError> {
        Ok(self.try_get::<Json<Vec<String>>, _>(column)?.0)
    }
}
