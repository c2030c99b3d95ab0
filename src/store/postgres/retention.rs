//! Retention in PostgreSQL.

use async_trait::async_trait;
use oriva_hub_actors::model::Timestamp;
use uuid::Uuid;

use super::PostgresStore;
use crate::store::{RetentionStore, Retired, StoreError, retention::first_id_at};

/// Over, whatever became of it.
const IS_OVER: &str = "not exists (select from notification_state s where s.notification_id = n.id \
                       and s.status in ('unread', 'read', 'clicked'))";

#[async_trait]
impl RetentionStore for PostgresStore {
    async fn count_retired(&self, what: Retired, before: Timestamp) -> Result<u64, StoreError> {
        let table = match what {
            Retired::Events => "platform_events",
            Retired::Notifications => "platform_notifications",
            Retired::Deliveries => "webhook_deliveries",
            Retired::DeliveryLog => "webhook_delivery_log",
        };
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {table} where id < $1")))
            .bind(first_id_at(before))
            .fetch_one(&self.pool)
            .await?;
        Ok(count.unsigned_abs())
    }

    async fn retire(&self, what: Retired, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let statement = match what {
            Retired::Events => {
                "with gone as (delete from platform_events where id in (select id from platform_events where id < $1 \
                 order by id limit $2 for update skip locked) returning *) \
                 insert into platform_events_archive select * from gone"
            }
            Retired::Notifications => return self.retire_notifications(before, limit).await,
            Retired::Deliveries => {
                "delete from webhook_deliveries where id in (select id from webhook_deliveries where id < $1 \
                 and status <> 'delivering' order by id limit $2 for update skip locked)"
            }
            Retired::DeliveryLog => {
                "delete from webhook_delivery_log where id in (select id from webhook_delivery_log where id < $1 \
                 order by id limit $2 for update skip locked)"
            }
        };
        let done = sqlx::query(statement).bind(first_id_at(before)).bind(i64::from(limit)).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }

    async fn expire_retired(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let due: Vec<Uuid> = sqlx::query_scalar(
            "select s.notification_id from platform_notifications n join notification_state s on s.notification_id = n.id \
             where n.id < $1 and s.status in ('unread', 'read', 'clicked') and (s.expires_at is null or s.expires_at > $2) \
             limit $3 for update skip locked",
        )
        .bind(first_id_at(before))
        .bind(before.as_datetime())
        .bind(i64::from(limit))
        .fetch_all(&mut *transaction)
        .await?;
        for table in [
            "notification_state set expires_at = $2 where notification_id",
            "platform_notifications set expires_at = $2 where id",
        ] {
            sqlx::query(sqlx::AssertSqlSafe(format!("update {table} = any($1)")))
                .bind(&due)
                .bind(before.as_datetime())
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(due.len() as u64)
    }
}

impl PostgresStore {
    async fn retire_notifications(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let over: Vec<Uuid> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "select n.id from platform_notifications n where n.id < $1 and {IS_OVER} order by n.id limit $2 \
             for update skip locked"
        )))
        .bind(first_id_at(before))
        .bind(i64::from(limit))
        .fetch_all(&mut *transaction)
        .await?;
        for statement in [
            "insert into notification_state_archive select * from notification_state where notification_id = any($1)",
            "insert into platform_notifications_archive select * from platform_notifications where id = any($1)",
            "delete from platform_notifications where id = any($1)",
        ] {
            sqlx::query(statement).bind(&over).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(over.len() as u64)
    }
}
