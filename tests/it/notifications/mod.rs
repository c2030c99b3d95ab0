//! Notifications, from creation to expiry (contract §6).

mod create;
mod expiry;
mod feed;
mod scenarios;
mod update;

use sqlx::{Connection as _, PgConnection, SqliteConnection};

use crate::harness::{Backend, TestHub};

/// Queries the database for a number.
pub(crate) async fn number(hub: &TestHub, sql: &str) -> i64 {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    match hub.database.backend {
        Backend::Sqlite => {
            let mut connection = SqliteConnection::connect(&hub.database.url).await.expect("a connection");
            sqlx::query_scalar(sql).fetch_one(&mut connection).await.expect("a number")
        }
        Backend::Postgres => {
            let mut connection = PgConnection::connect(&hub.database.owner_url).await.expect("a connection");
            sqlx::query_scalar(sql).fetch_one(&mut connection).await.expect("a number")
        }
    }
}
