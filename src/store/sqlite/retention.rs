//! Retention in SQLite. Rows are taken from the oldest on, so that what a transaction moves is a range of ids.

use async_trait::async_trait;
use oriva_hub_actors::model::Timestamp;
use sqlx::{QueryBuilder, SqliteConnection};
use uuid::Uuid;

use super::{SqliteStore, append::runs};
use crate::store::{RetentionStore, Retired, StoreError, retention::first_id_at};

#[async_trait]
impl RetentionStore for SqliteStore {
    async fn count_retired(&self, what: Retired, before: Timestamp) -> Result<u64, StoreError> {
        let table = match what {
            Retired::Events => "platform_events",
            Retired::Notifications => "platform_notifications",
            Retired::Deliveries => "webhook_deliveries",
            Retired::DeliveryLog => "webhook_delivery_log",
        };
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {table} where id < ?1")))
            .bind(first_id_at(before))
            .fetch_one(&self.readers)
            .await?;
        Ok(count.unsigned_abs())
    }

    async fn retire(&self, what: Retired, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let (due, done): (_, &[&str]) = match what {
            Retired::Events => (
                "select id from platform_events where id < ?1 order by id limit ?2",
                &[
                    "insert into platform_events_archive select * from platform_events where id in ",
                    "delete from platform_events where id in ",
                ],
            ),
            Retired::Notifications => (
                "select n.id from platform_notifications n where n.id < ?1 and not exists (select 1 from \
                 notification_state s where s.notification_id = n.id and s.status in ('unread', 'read', 'clicked')) \
                 order by n.id limit ?2",
                &[
                    "insert into notification_state_archive select * from notification_state where notification_id in ",
                    "insert into platform_notifications_archive select * from platform_notifications where id in ",
                    "delete from platform_notifications where id in ",
                ],
            ),
            Retired::Deliveries => (
                "select id from webhook_deliveries where id < ?1 and status <> 'delivering' order by id limit ?2",
                &["delete from webhook_deliveries where id in "],
            ),
            Retired::DeliveryLog => (
                "select id from webhook_delivery_log where id < ?1 order by id limit ?2",
                &["delete from webhook_delivery_log where id in "],
            ),
        };
        let mut transaction = self.begin().await?;
        let ids: Vec<Uuid> = sqlx::query_scalar(due)
            .bind(first_id_at(before))
            .bind(i64::from(limit))
            .fetch_all(&mut *transaction)
            .await?;
        for statement in done {
            for_each_run(&mut transaction, statement, &ids).await?;
        }
        transaction.commit().await?;
        Ok(ids.len() as u64)
    }

    async fn expire_retired(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let mut transaction = self.begin().await?;
        let due: Vec<Uuid> = sqlx::query_scalar(
            "select s.notification_id from platform_notifications n join notification_state s on s.notification_id = n.id \
             where n.id < ?1 and s.status in ('unread', 'read', 'clicked') and (s.expires_at is null or s.expires_at > ?2) \
             limit ?3",
        )
        .bind(first_id_at(before))
        .bind(before.unix_ms())
        .bind(i64::from(limit))
        .fetch_all(&mut *transaction)
        .await?;
        for (table, id) in [("notification_state", "notification_id"), ("platform_notifications", "id")] {
            for run in runs(&due) {
                let mut update = QueryBuilder::new(format!("update {table} set expires_at = "));
                update.push_bind(before.unix_ms()).push(format!(" where {id} in "));
                update.push_tuples(run, |mut row, id| {
                    row.push_bind(id);
                });
                update.build().execute(&mut *transaction).await?;
            }
        }
        transaction.commit().await?;
        Ok(due.len() as u64)
    }
}

async fn for_each_run(connection: &mut SqliteConnection, statement: &str, ids: &[Uuid]) -> Result<(), StoreError> {
    for run in runs(ids) {
        let mut query = QueryBuilder::new(statement);
        query.push_tuples(run, |mut row, id| {
            row.push_bind(id);
        });
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}
