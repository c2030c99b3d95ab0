//! What the shared SQL needs of a database: how to run a statement, and the few words in which the two differ.

use std::ops::DerefMut;

use async_trait::async_trait;
use oriva_hub_actors::model::{EventId, Offset, StreamKey, Timestamp};
use uuid::Uuid;

use super::statement::{Rows, Statement};
use crate::store::{
    StoreError,
    batch::{Decided, Insertion, Written},
};

/// A transaction. It is rolled back when it is dropped without a commit.
#[async_trait]
pub(in crate::store) trait Commit {
    /// Commits.
    async fn commit(self) -> Result<(), StoreError>;
}

/// A database. Implemented by the drivers' own types for it.
#[async_trait]
pub(in crate::store) trait Dialect: Send + Sync + 'static {
    type Connection: Send;
    type Row: SqlRow;
    type Transaction: Commit + DerefMut<Target = Self::Connection> + Send;

    /// The present by the database's own clock.
    const NOW: &'static str;

    /// Ends a query that locks the rows of `r` for this transaction, and passes over those that another one holds.
    const LOCK_R_OR_SKIP: &'static str;

    /// Ends a query that locks its rows for this transaction, but not against rows that refer to them.
    const LOCK_FOR_UPDATE: &'static str;

    /// Ends a query that locks the rows of `s` for this transaction.
    const LOCK_S: &'static str;

    /// Ends a query that locks the rows of `s` for this transaction, and passes over those that another one holds.
    const LOCK_S_OR_SKIP: &'static str;

    /// Ends an insert's query that locks the rows of `w` against deletion.
    const LOCK_W_SHARED: &'static str;

    /// A placeholder whose text becomes JSON.
    fn json(placeholder: &str) -> String;

    /// A JSON column as text.
    fn json_text(column: &str) -> String;

    /// An address column as text.
    fn address_text(column: &str) -> String;

    /// A placeholder whose text becomes an address.
    fn address(placeholder: &str) -> String;

    /// Cuts a list of ids into parts that [`Dialect::push_any`] takes.
    fn id_runs(ids: &[Uuid]) -> Vec<&[Uuid]>;

    /// Appends `column in ids`.
    fn push_any(statement: &mut Statement<'_>, column: &str, ids: &[Uuid]);

    /// Statements that read `before`, then the rows as a query (`select …` or `values …`), then `after`. These two have no
    /// placeholders. One statement for all rows in PostgreSQL, which takes an array for each column; one for each run of
    /// rows in SQLite.
    fn with_rows<'q>(before: &str, rows: Rows<'q>, after: &str) -> Vec<Statement<'q>>;

    /// Runs a statement. Returns the number of rows it affected.
    async fn execute(connection: &mut Self::Connection, statement: Statement<'_>) -> Result<u64, StoreError>;

    /// Runs a query. Returns its first row, if any.
    async fn fetch_optional(
        connection: &mut Self::Connection,
        statement: Statement<'_>,
    ) -> Result<Option<Self::Row>, StoreError>;

    /// Runs a query. Returns all rows.
    async fn fetch_all(
        connection: &mut Self::Connection,
        statement: Statement<'_>,
    ) -> Result<Vec<Self::Row>, StoreError>;

    /// Runs a query that always has a row. Returns the first.
    async fn fetch_one(connection: &mut Self::Connection, statement: Statement<'_>) -> Result<Self::Row, StoreError> {
        let row = Self::fetch_optional(connection, statement).await?;
        row.ok_or_else(no_row)
    }

    /// Runs statements one after the other. Returns the rows of all of them.
    async fn fetch_each(
        connection: &mut Self::Connection,
        statements: Vec<Statement<'_>>,
    ) -> Result<Vec<Self::Row>, StoreError> {
        let mut rows = Vec::new();
        for statement in statements {
            rows.extend(Self::fetch_all(connection, statement).await?);
        }
        Ok(rows)
    }

    /// Runs statements one after the other. Returns the number of rows they affected.
    async fn execute_each(
        connection: &mut Self::Connection,
        statements: Vec<Statement<'_>>,
    ) -> Result<u64, StoreError> {
        let mut affected = 0;
        for statement in statements {
            affected += Self::execute(connection, statement).await?;
        }
        Ok(affected)
    }
}

/// A row. Columns are named by their place; types are those of the schema.
pub(in crate::store) trait SqlRow: Send + Sync {
    fn text(&self, column: usize) -> Result<String, StoreError>;
    fn text_or_null(&self, column: usize) -> Result<Option<String>, StoreError>;
    fn bytes(&self, column: usize) -> Result<Vec<u8>, StoreError>;
    fn bytes_or_null(&self, column: usize) -> Result<Option<Vec<u8>>, StoreError>;
    fn flag(&self, column: usize) -> Result<bool, StoreError>;
    /// A `smallint`, which is never negative here.
    fn small(&self, column: usize) -> Result<u16, StoreError>;
    fn small_or_null(&self, column: usize) -> Result<Option<u16>, StoreError>;
    /// An `integer`, which is never negative here.
    fn int(&self, column: usize) -> Result<u32, StoreError>;
    fn int_or_null(&self, column: usize) -> Result<Option<u32>, StoreError>;
    /// A `bigint`, which is never negative here.
    fn big(&self, column: usize) -> Result<u64, StoreError>;
    fn big_or_null(&self, column: usize) -> Result<Option<u64>, StoreError>;
    fn id(&self, column: usize) -> Result<Uuid, StoreError>;
    fn moment(&self, column: usize) -> Result<Timestamp, StoreError>;
    fn moment_or_null(&self, column: usize) -> Result<Option<Timestamp>, StoreError>;
    /// A list of strings.
    fn texts(&self, column: usize) -> Result<Vec<String>, StoreError>;
}

/// The columns that both databases return alike.
macro_rules! plain_columns {
    () => {
        plain_columns! {
            same {
                text: String, text_or_null: Option<String>, bytes: Vec<u8>, bytes_or_null: Option<Vec<u8>>,
                flag: bool, id: Uuid
            }
            unsigned { small: i16 => u16, int: i32 => u32, big: i64 => u64 }
            unsigned_or_null { small_or_null: i16 => u16, int_or_null: i32 => u32, big_or_null: i64 => u64 }
        }
    };
    (
        same { $($same:ident: $kind:ty),* }
        unsigned { $($unsigned:ident: $signed:ident => $to:ty),* }
        unsigned_or_null { $($nullable:ident: $inner:ident => $option:ty),* }
    ) => {
        $(fn $same(&self, column: usize) -> Result<$kind, StoreError> {
            Ok(self.try_get(column)?)
        })*
        $(fn $unsigned(&self, column: usize) -> Result<$to, StoreError> {
            Ok(self.try_get::<$signed, _>(column)?.unsigned_abs())
        })*
        $(fn $nullable(&self, column: usize) -> Result<Option<$option>, StoreError> {
            Ok(self.try_get::<Option<$inner>, _>(column)?.map($inner::unsigned_abs))
        })*
    };
}
pub(in crate::store) use plain_columns;

fn no_row() -> StoreError {
    StoreError::failed("a query that always has a row had none")
}

/// A store whose reads and administration are the shared SQL.
#[async_trait]
pub(in crate::store) trait SqlStore: Send + Sync {
    type Db: Dialect;

    /// Whether [`SqlStore::append_at_once`] is tried.
    const APPENDS_AT_ONCE: bool = false;

    /// A transaction that reads as this stream's holder, and sees only what is theirs where the database can enforce that.
    /// [`StreamKey::Broadcast`] reads as the hub itself. All of its queries see the store at one moment.
    async fn begin_read(&self, tenant: &StreamKey) -> Result<<Self::Db as Dialect>::Transaction, StoreError>;

    /// As [`SqlStore::begin_read`]. Returns also the head of `stream` at that moment, whoever's it is.
    async fn begin_read_at(
        &self,
        tenant: &StreamKey,
        stream: &StreamKey,
    ) -> Result<(<Self::Db as Dialect>::Transaction, Offset), StoreError>;

    /// A transaction that writes as the hub itself.
    async fn begin_write(&self) -> Result<<Self::Db as Dialect>::Transaction, StoreError>;

    /// A transaction of the writer. There is one at a time.
    async fn begin_append(&self) -> Result<<Self::Db as Dialect>::Transaction, StoreError> {
        self.begin_write().await
    }

    /// Writes and commits a batch that needs nothing before, with the notifications that it creates. `None` where it takes the
    /// steps instead: nothing is written.
    async fn append_at_once<'a>(
        &self,
        _decided: Decided<'a>,
        _insertions: &[Insertion<'a>],
    ) -> Result<Option<Written<'a>>, StoreError> {
        Ok(None)
    }

    /// Writes the events of a batch, and with them the ends of their streams, their deliveries and audit rows.
    async fn append_events<'a>(
        &self,
        connection: &mut <Self::Db as Dialect>::Connection,
        decided: Decided<'a>,
    ) -> Result<Written<'a>, StoreError>;

    /// The writer has committed, and this was the last event.
    fn appended(&self, _last: EventId) {}

    /// Runs one query as this stream's holder. Returns all rows.
    async fn query_all(
        &self,
        tenant: &StreamKey,
        statement: Statement<'_>,
    ) -> Result<Vec<<Self::Db as Dialect>::Row>, StoreError>;

    /// Runs one query as this stream's holder. Returns the first row, if any.
    async fn query_optional(
        &self,
        tenant: &StreamKey,
        statement: Statement<'_>,
    ) -> Result<Option<<Self::Db as Dialect>::Row>, StoreError> {
        Ok(self.query_all(tenant, statement).await?.into_iter().next())
    }

    /// Runs one query of the hub itself that always has a row. Returns the first.
    async fn query_one(&self, statement: Statement<'_>) -> Result<<Self::Db as Dialect>::Row, StoreError> {
        let row = self.query_optional(&StreamKey::Broadcast, statement).await?;
        row.ok_or_else(no_row)
    }
}
