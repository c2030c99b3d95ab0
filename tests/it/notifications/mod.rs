//! Notifications, from creation to expiry (contract §6).

mod create;
mod expiry;
mod feed;
mod scenarios;
mod update;

use crate::harness::{Backend, TestHub};

/// Queries the database for a number.
pub(crate) async fn number(hub: &TestHub, sql: &str) -> i64 {
    match hub.database.backend {
        Backend::Sqlite => {
            use sqlx::Connection as _;
            let mut connection = sqlx::SqliteConnection::connect(&hub.database.url).await.expect("a connection");
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.expect("a number")
        }
        Backend::Postgres => {
            use sqlx_pg::Connection as _;
            let mut connection = sqlx_pg::PgConnection::connect(&hub.database.owner_url).await.expect("a connection");
            sqlx_pg::query_scalar(sql).fetch_one(&mut connection).await.expect("a number")
        }
    }
}
