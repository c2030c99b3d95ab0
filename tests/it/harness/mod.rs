//! What every test uses: a database, a hub and clients of its own.

mod browser;
pub mod callers;
mod database;
pub mod hub;
pub mod ledger;
pub mod postgres;
pub mod process;
pub mod receiver;
pub mod redis;
mod socket;

pub use browser::Browser;
pub use callers::{Answer, App};
pub use database::{Backend, Database};
pub use hub::TestHub;
pub use postgres::PostgresServer;
pub use process::HubProcess;
pub use receiver::{Received, Receiver};
pub use redis::{Proxy, RedisCluster, RedisServer};
pub use socket::{Attended, Refused, Socket};

/// Runs each test on both stores: `on_both_stores!(name, …)` for `async fn name(backend: Backend)`.
#[macro_export]
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::harness::Backend::Sqlite).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::harness::Backend::Postgres).await;
            })*
        }
    };
}

/// Waits until a condition holds. Fails only after a long time, so that a slow machine does not fail the test.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("never happened: {what}");
}
