//! Retention in PostgreSQL.

use async_trait::async_trait;
use oriva_hub_actors::model::Timestamp;
use sqlx_pg::PgConnection;
use uuid::Uuid;

use super::PostgresStore;
use crate::store::{
    ArchiveTable, Export, Range, RetentionClass, RetentionStore, Step, StoreError,
    retention::{Shape, first_id_at, unpack},
    sql::dialect::SqlStore as _,
};

/// With a user who may still act on it.
const IS_OPEN: &str = "exists (select from notification_state s where s.notification_id = n.id \
                       and s.status in ('unread', 'read', 'clicked'))";
/// Notifications with their state. Both rows are locked: a transaction that has locked the state may delete the
/// notification next, and must not wait here for what waits for it.
const NOTIFICATIONS: &str = "platform_notifications n join notification_state s on s.notification_id = n.id";

#[async_trait]
impl RetentionStore for PostgresStore {
    async fn count_retired(&self, what: RetentionClass, before: Timestamp) -> Result<u64, StoreError> {
        let rows = match what {
            RetentionClass::Events => "platform_events n where n.id < $1".to_owned(),
            RetentionClass::Notifications => {
                format!(
                    "platform_notifications n where n.id < $1 and not (coalesce(n.expires_at > now(), false) and {IS_OPEN})"
                )
            }
            RetentionClass::Deliveries => {
                "webhook_deliveries n where n.id < $1 and n.status <> 'delivering'".to_owned()
            }
            RetentionClass::DeliveryLog => "webhook_delivery_log n where n.id < $1".to_owned(),
            RetentionClass::AuditLog => "audit_log n where n.id < $1".to_owned(),
        };
        let mut transaction = self.begin_write().await?;
        // A whole table may take its time; only a command asks.
        sqlx_pg::query("set local statement_timeout = 0").execute(&mut *transaction).await?;
        let count: i64 = sqlx_pg::query_scalar(&format!("select count(*) from {rows}"))
            .bind(first_id_at(before))
            .fetch_one(&mut *transaction)
            .await?;
        Ok(count.unsigned_abs())
    }

    async fn retire(&self, what: RetentionClass, range: Range, limit: u32) -> Result<Step, StoreError> {
        let (rows, is_over, statements): (_, _, &[&str]) = match what {
            RetentionClass::Events => (
                "platform_events n",
                "true".to_owned(),
                &["with gone as (delete from platform_events where id = any($1) returning *) \
                   insert into platform_events_archive select * from gone"],
            ),
            RetentionClass::Notifications => (
                NOTIFICATIONS,
                format!("not {IS_OPEN}"),
                &[
                    "insert into notification_state_archive select * from notification_state where notification_id = any($1)",
                    "insert into platform_notifications_archive select * from platform_notifications where id = any($1)",
                    "delete from platform_notifications where id = any($1)",
                ],
            ),
            RetentionClass::Deliveries => (
                "webhook_deliveries n",
                "n.status <> 'delivering'".to_owned(),
                &["delete from webhook_deliveries where id = any($1)"],
            ),
            RetentionClass::DeliveryLog => {
                ("webhook_delivery_log n", "true".to_owned(), &["delete from webhook_delivery_log where id = any($1)"])
            }
            RetentionClass::AuditLog => (
                "audit_log n",
                "true".to_owned(),
                &["with gone as (delete from audit_log where id = any($1) returning *) \
                   insert into audit_log_archive select * from gone"],
            ),
        };
        let mut transaction = self.begin_write().await?;
        let looked_at = next(&mut transaction, rows, &is_over, range, limit).await?;
        let over: Vec<Uuid> = looked_at.iter().filter(|(_, is_over)| *is_over).map(|(id, _)| *id).collect();
        for statement in statements {
            sqlx_pg::query(statement).bind(&over).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(Step { last: looked_at.last().map(|(id, _)| *id), done: over.len() as u64 })
    }

    async fn expire_retired(&self, range: Range, limit: u32) -> Result<Step, StoreError> {
        let mut transaction = self.begin_write().await?;
        let is_endless = format!("n.expires_at is null and {IS_OPEN}");
        let looked_at = next(&mut transaction, NOTIFICATIONS, &is_endless, range, limit).await?;
        let endless: Vec<Uuid> = looked_at.iter().filter(|(_, is_endless)| *is_endless).map(|(id, _)| *id).collect();
        for statement in [
            "update notification_state set expires_at = $2 where notification_id = any($1)",
            "update platform_notifications set expires_at = $2 where id = any($1)",
        ] {
            sqlx_pg::query(statement)
                .bind(&endless)
                .bind(range.before.as_datetime())
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(Step { last: looked_at.last().map(|(id, _)| *id), done: endless.len() as u64 })
    }

    async fn begin_export(&self, table: ArchiveTable, limit: u32) -> Result<Option<Export>, StoreError> {
        let mut transaction = self.begin_write().await?;
        // Waits for whoever finishes one: what is deleted with it is not begun with again. Of two that begin at once one waits,
        // and goes on with what the other began.
        sqlx_pg::query("lock table archive_exports in share row exclusive mode").execute(&mut *transaction).await?;
        sqlx_pg::query(&format!(
            "insert into archive_exports (table_name, id, ids) \
             select $1, $2, string_agg(uuid_send(id), ''::bytea order by id) \
             from (select id from {} order by id limit $3) oldest having count(*) > 0 \
             on conflict (table_name) do nothing",
            table.table()
        ))
        .bind(table.as_str())
        .bind(Uuid::now_v7())
        .bind(i64::from(limit))
        .execute(&mut *transaction)
        .await?;
        let begun: Option<(Uuid, Vec<u8>)> =
            sqlx_pg::query_as("select id, ids from archive_exports where table_name = $1")
                .bind(table.as_str())
                .fetch_optional(&mut *transaction)
                .await?;
        let Some((id, ids)) = begun else { return Ok(None) };
        // Under the lock: whoever finishes it deletes them afterwards, and an object is never written again with less.
        let object = table.object(json_value);
        let lines: Vec<String> =
            sqlx_pg::query_scalar(&format!("select {object} from {} where id = any($1) order by id", table.table()))
                .bind(unpack(&ids))
                .fetch_all(&mut *transaction)
                .await?;
        transaction.commit().await?;
        Ok(Some(Export::new(id, table, &lines)))
    }

    async fn finish_export(&self, table: ArchiveTable, id: Uuid) -> Result<(), StoreError> {
        let mut transaction = self.begin_write().await?;
        let ids: Option<Vec<u8>> = sqlx_pg::query_scalar("delete from archive_exports where id = $1 returning ids")
            .bind(id)
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some(ids) = ids {
            sqlx_pg::query(&format!("delete from {} where id = any($1)", table.table()))
                .bind(unpack(&ids))
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}

/// The JSON text of a column.
fn json_value(column: &str, shape: Shape) -> String {
    let value = match shape {
        Shape::Json => return format!("{column}::text"),
        Shape::Plain | Shape::Id | Shape::Flag => column.to_owned(),
        Shape::Moment => format!(r#"to_char({column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"#),
        Shape::Address => format!("host({column})"),
    };
    format!("coalesce(to_json({value})::text, 'null')")
}

/// The next rows of a range, each with whether a condition holds for it. They are locked; what others hold is passed over.
async fn next(
    connection: &mut PgConnection,
    rows: &str,
    condition: &str,
    range: Range,
    limit: u32,
) -> Result<Vec<(Uuid, bool)>, StoreError> {
    let rows = sqlx_pg::query_as(&format!(
        "select n.id, {condition} from {rows} where n.id > $1 and n.id < $2 order by n.id limit $3 \
         for update skip locked"
    ))
    .bind(range.after)
    .bind(range.end())
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
