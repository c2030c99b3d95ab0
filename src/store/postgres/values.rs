//! The shared SQL in PostgreSQL: values, rows, and the words that SQLite has otherwise.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use oriva_hub_actors::model::Timestamp;
use sqlx_pg::{PgConnection, Postgres, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    Transaction,
    arguments::{arguments, fetch_all},
};
use crate::store::{
    StoreError,
    sql::{
        dialect::{Commit, Dialect, SqlRow, plain_columns},
        statement::{Kind, Rows, Statement, Value},
    },
};

#[async_trait]
impl Dialect for Postgres {
    type Connection = PgConnection;
    type Row = PgRow;
    type Transaction = Transaction;

    const NOW: &'static str = "now()";

    const LOCK_R_OR_SKIP: &'static str = " for update of r skip locked";
    const LOCK_S: &'static str = " for update of s";
    const LOCK_S_OR_SKIP: &'static str = " for update of s skip locked";
    const LOCK_W_SHARED: &'static str = " for key share of w";
    const LOCK_FOR_UPDATE: &'static str = " for no key update";

    fn json(placeholder: &str) -> String {
        format!("{placeholder}::json")
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

    fn id_runs(ids: &[Uuid]) -> Vec<&[Uuid]> {
        if ids.is_empty() { Vec::new() } else { vec![ids] }
    }

    fn push_any(statement: &mut Statement<'_>, column: &str, ids: &[Uuid]) {
        let ids = ids.iter().map(|id| Value::Id(Some(*id))).collect();
        statement.push(column).push(" = any(").push_bind(Value::Array(Kind::Id, ids)).push(")");
    }

    fn with_rows<'q>(before: &str, rows: Rows<'q>, after: &str) -> Vec<Statement<'q>> {
        if rows.values.is_empty() {
            return Vec::new();
        }
        let mut statement = Statement::new(before);
        push_select(&mut statement, rows);
        statement.push(" order by ordinal").push(after);
        vec![statement]
    }

    async fn execute(connection: &mut PgConnection, statement: Statement<'_>) -> Result<u64, StoreError> {
        Ok(sqlx_pg::query_with(&statement.sql, arguments(&statement)?).execute(connection).await?.rows_affected())
    }

    async fn fetch_optional(
        connection: &mut PgConnection,
        statement: Statement<'_>,
    ) -> Result<Option<PgRow>, StoreError> {
        Ok(sqlx_pg::query_with(&statement.sql, arguments(&statement)?).fetch_optional(connection).await?)
    }

    async fn fetch_all(connection: &mut PgConnection, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        fetch_all(connection, &statement).await
    }
}

#[async_trait]
impl Commit for Transaction {
    async fn commit(self) -> Result<(), StoreError> {
        Self::commit(self).await
    }
}

/// Appends `select … from source` with all columns of rows.
pub(super) fn push_select<'q>(statement: &mut Statement<'q>, rows: Rows<'q>) {
    let columns = rows.columns.iter().map(|(name, kind)| match kind {
        Kind::Json => Postgres::json(name),
        Kind::Address => Postgres::address(name),
        _ => (*name).to_owned(),
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    push_source(statement.push("select ").push(columns).push(" from "), rows);
}

/// Appends rows as a table `source` with their columns, and `ordinal`.
pub(super) fn push_source<'q>(statement: &mut Statement<'q>, rows: Rows<'q>) {
    let names = rows.names();
    statement.push("unnest(");
    for (index, (kind, array)) in rows.into_arrays().into_iter().enumerate() {
        statement.push(if index == 0 { "" } else { ", " }).push_bind(array).push(array_type(kind));
    }
    statement.push(") with ordinality as source (").push(names).push(", ordinal)");
}

const fn array_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::Json | Kind::Address => "::text[]",
        Kind::Bytes => "::bytea[]",
        Kind::Flag => "::boolean[]",
        Kind::Small => "::smallint[]",
        Kind::Big => "::bigint[]",
        Kind::Id => "::uuid[]",
        Kind::Moment => "::timestamptz[]",
    }
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
