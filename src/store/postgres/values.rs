//! The shared SQL in PostgreSQL: values, rows, and the words that SQLite has otherwise.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use oriva_hub_actors::model::Timestamp;
use sqlx::{
    Arguments as _, AssertSqlSafe, PgConnection, Postgres, Row as _,
    postgres::{PgArguments, PgRow},
};
use uuid::Uuid;

use crate::store::{
    StoreError,
    sql::{
        dialect::{Dialect, SqlRow, plain_columns},
        statement::{Statement, Value},
    },
};

#[async_trait]
impl Dialect for Postgres {
    const NOW: &'static str = "now()";

    const LOCK_R_OR_SKIP: &'static str = " for update of r skip locked";
    const LOCK_W_SHARED: &'static str = " for key share of w";
    const LOCK_FOR_UPDATE: &'static str = " for no key update";

    fn json(placeholder: &str) -> String {
        format!("{placeholder}::jsonb")
    }

    fn json_text(column: &str) -> String {
        format!("{column}::text")
    }

    fn address_text(column: &str) -> String {
        format!("host({column})")
    }

    fn address(placeholder: &str) -> String {
        format!("{placeholder}::inet")
    }

    fn push_any<'q>(statement: &mut Statement<'q>, column: &str, ids: &'q [Uuid]) {
        statement.push(column).push(" = any(").push_bind(Value::Ids(ids)).push(")");
    }

    async fn execute(connection: &mut PgConnection, statement: Statement<'_>) -> Result<u64, StoreError> {
        let (sql, arguments) = encode(statement)?;
        Ok(sqlx::query_with(AssertSqlSafe(sql), arguments).execute(connection).await?.rows_affected())
    }

    async fn fetch_optional(
        connection: &mut PgConnection,
        statement: Statement<'_>,
    ) -> Result<Option<PgRow>, StoreError> {
        let (sql, arguments) = encode(statement)?;
        Ok(sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_optional(connection).await?)
    }

    async fn fetch_all(connection: &mut PgConnection, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        let (sql, arguments) = encode(statement)?;
        Ok(sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(connection).await?)
    }
}

/// The text of a statement, and its values as PostgreSQL takes them.
pub(super) fn encode(statement: Statement<'_>) -> Result<(String, PgArguments), StoreError> {
    let mut arguments = PgArguments::default();
    for value in statement.values {
        let added = match value {
            Value::Text(text) => arguments.add(text.as_deref()),
            Value::Bytes(bytes) => arguments.add(bytes.as_deref()),
            Value::Flag(flag) => arguments.add(flag),
            Value::Small(number) => arguments.add(number),
            Value::Big(number) => arguments.add(number),
            Value::Id(id) => arguments.add(id),
            Value::Ids(ids) => arguments.add(ids),
            Value::Moment(moment) => arguments.add(moment.map(Timestamp::as_datetime)),
            Value::Texts(texts) => arguments.add(texts),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok((statement.sql, arguments))
}

impl SqlRow for PgRow {
    plain_columns!();

    fn moment(&self, column: usize) -> Result<Timestamp, StoreError> {
        Ok(self.try_get::<DateTime<Utc>, _>(column)?.into())
    }

    fn moment_or_null(&self, column: usize) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.try_get::<Option<DateTime<Utc>>, _>(column)?.map(Timestamp::from))
    }

    fn texts(&self, column: usize) -> Result<Vec<String>, StoreError> {
        Ok(self.try_get(column)?)
    }
}
