//! Retention in SQLite.

use async_trait::async_trait;
use oriva_hub_actors::model::Timestamp;
use sqlx::{QueryBuilder, SqliteConnection};
use uuid::Uuid;

use super::SqliteStore;
use crate::store::{
    ArchiveTable, Export, Range, RetentionClass, RetentionStore, Step, StoreError,
    retention::{Shape, first_id_at, pack, unpack},
    sql::statement::runs,
};

/// The user may still act on it.
const IS_OPEN: &str = "exists (select 1 from notification_state s where s.notification_id = n.id \
                       and s.status in ('unread', 'read', 'clicked'))";

#[async_trait]
impl RetentionStore for SqliteStore {
    async fn count_retired(&self, what: RetentionClass, before: Timestamp) -> Result<u64, StoreError> {
        let rows = match what {
            RetentionClass::Events => "platform_events n where n.id < ?1".to_owned(),
            RetentionClass::Notifications => {
                format!(
                    "platform_notifications n where n.id < ?1 and not (coalesce(n.expires_at, 0) > ?2 and {IS_OPEN})"
                )
            }
            RetentionClass::Deliveries => {
                "webhook_deliveries n where n.id < ?1 and n.status <> 'delivering'".to_owned()
            }
            RetentionClass::DeliveryLog => "webhook_delivery_log n where n.id < ?1".to_owned(),
            RetentionClass::AuditLog => "audit_log n where n.id < ?1".to_owned(),
        };
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {rows}")))
            .bind(first_id_at(before))
            .bind(Timestamp::now().unix_ms())
            // Readers have a deadline. Only a command asks, which writes nothing meanwhile.
            .fetch_one(&self.writer)
            .await?;
        Ok(count.unsigned_abs())
    }

    async fn retire(&self, what: RetentionClass, range: Range, limit: u32) -> Result<Step, StoreError> {
        let (rows, is_over, statements): (_, _, &[&str]) = match what {
            RetentionClass::Events => (
                "platform_events",
                "true".to_owned(),
                &[
                    "insert into platform_events_archive select * from platform_events where id in ",
                    "delete from platform_events where id in ",
                ],
            ),
            RetentionClass::Notifications => (
                "platform_notifications",
                format!("not {IS_OPEN}"),
                &[
                    "insert into notification_state_archive select * from notification_state where notification_id in ",
                    "insert into platform_notifications_archive select * from platform_notifications where id in ",
                    "delete from platform_notifications where id in ",
                ],
            ),
            RetentionClass::Deliveries => (
                "webhook_deliveries",
                "n.status <> 'delivering'".to_owned(),
                &["delete from webhook_deliveries where id in "],
            ),
            RetentionClass::DeliveryLog => {
                ("webhook_delivery_log", "true".to_owned(), &["delete from webhook_delivery_log where id in "])
            }
            RetentionClass::AuditLog => (
                "audit_log",
                "true".to_owned(),
                &[
                    "insert into audit_log_archive select * from audit_log where id in ",
                    "delete from audit_log where id in ",
                ],
            ),
        };
        let mut transaction = self.begin().await?;
        let looked_at = next(&mut transaction, rows, &is_over, range, limit).await?;
        let over: Vec<Uuid> = looked_at.iter().filter(|(_, is_over)| *is_over).map(|(id, _)| *id).collect();
        for statement in statements {
            for_each_run(&mut transaction, statement, &over).await?;
        }
        transaction.commit().await?;
        Ok(Step { last: looked_at.last().map(|(id, _)| *id), done: over.len() as u64 })
    }

    async fn expire_retired(&self, range: Range, limit: u32) -> Result<Step, StoreError> {
        let mut transaction = self.begin().await?;
        let is_endless = format!("n.expires_at is null and {IS_OPEN}");
        let looked_at = next(&mut transaction, "platform_notifications", &is_endless, range, limit).await?;
        let endless: Vec<Uuid> = looked_at.iter().filter(|(_, is_endless)| *is_endless).map(|(id, _)| *id).collect();
        for (table, id) in [("notification_state", "notification_id"), ("platform_notifications", "id")] {
            for run in runs(&endless) {
                let mut update = QueryBuilder::new(format!("update {table} set expires_at = "));
                update.push_bind(range.before.unix_ms()).push(format!(" where {id} in "));
                update.push_tuples(run, |mut row, id| {
                    row.push_bind(id);
                });
                update.build().execute(&mut *transaction).await?;
            }
        }
        transaction.commit().await?;
        Ok(Step { last: looked_at.last().map(|(id, _)| *id), done: endless.len() as u64 })
    }

    async fn begin_export(&self, table: ArchiveTable, limit: u32) -> Result<Option<Export>, StoreError> {
        let mut transaction = self.begin().await?;
        let begun: Option<(Uuid, Vec<u8>)> =
            sqlx::query_as("select id, ids from archive_exports where table_name = ?1")
                .bind(table.as_str())
                .fetch_optional(&mut *transaction)
                .await?;
        let (id, ids) = match begun {
            Some((id, ids)) => (id, unpack(&ids)),
            None => {
                let oldest = format!("select id from {} order by id limit ?1", table.table());
                let ids: Vec<Uuid> = sqlx::query_scalar(sqlx::AssertSqlSafe(oldest))
                    .bind(i64::from(limit))
                    .fetch_all(&mut *transaction)
                    .await?;
                if ids.is_empty() {
                    return Ok(None);
                }
                let id = Uuid::now_v7();
                sqlx::query("insert into archive_exports (table_name, id, ids) values (?1, ?2, ?3)")
                    .bind(table.as_str())
                    .bind(id)
                    .bind(pack(&ids))
                    .execute(&mut *transaction)
                    .await?;
                (id, ids)
            }
        };
        // Read in the transaction: an export is never written with fewer rows than it deletes.
        let object = table.object(json_value);
        let mut lines: Vec<String> = Vec::with_capacity(ids.len());
        for run in runs(&ids) {
            let mut query = QueryBuilder::new(format!("select {object} from {} where id in ", table.table()));
            query.push_tuples(run, |mut row, id| {
                row.push_bind(id);
            });
            query.push(" order by id");
            lines.extend(query.build_query_scalar::<String>().fetch_all(&mut *transaction).await?);
        }
        transaction.commit().await?;
        Ok(Some(Export::new(id, table, &lines)))
    }

    async fn finish_export(&self, table: ArchiveTable, id: Uuid) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        let ids: Option<Vec<u8>> = sqlx::query_scalar("delete from archive_exports where id = ?1 returning ids")
            .bind(id)
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some(ids) = ids {
            let delete = format!("delete from {} where id in ", table.table());
            for_each_run(&mut transaction, &delete, &unpack(&ids)).await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}

/// The JSON text of a column.
fn json_value(column: &str, shape: Shape) -> String {
    let value = match shape {
        Shape::Json => return column.to_owned(),
        Shape::Flag => return format!("iif({column}, 'true', 'false')"),
        Shape::Plain | Shape::Address => column.to_owned(),
        Shape::Id => {
            let part = |first: u8, length: u8| format!("substr(lower(hex({column})), {first}, {length})");
            [part(1, 8), part(9, 4), part(13, 4), part(17, 4), part(21, 12)].join(" || '-' || ")
        }
        Shape::Moment => format!("strftime('%Y-%m-%dT%H:%M:%fZ', {column} / 1000.0, 'unixepoch')"),
    };
    format!("json_quote({value})")
}

/// The next rows of a range, each with whether a condition holds for it.
async fn next(
    connection: &mut SqliteConnection,
    table: &str,
    condition: &str,
    range: Range,
    limit: u32,
) -> Result<Vec<(Uuid, bool)>, StoreError> {
    let rows = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select n.id, {condition} from {table} n where n.id > ?1 and n.id < ?2 order by n.id limit ?3"
    )))
    .bind(range.after)
    .bind(range.end())
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    Ok(rows)
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
