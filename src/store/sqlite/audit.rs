//! The audit log in SQLite, as it is read.

use async_trait::async_trait;
use oriva_hub_actors::model::Timestamp;
use sqlx::{QueryBuilder, Row as _, sqlite::SqliteRow};

use super::SqliteStore;
use crate::store::{AuditEntry, AuditFilter, AuditStore, StoreError};

#[async_trait]
impl AuditStore for SqliteStore {
    async fn audit_log(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError> {
        let mut query =
            QueryBuilder::new("select id, actor, action, subject, app_id, ip_address, at from audit_log where true");
        for (column, text) in filter.texts() {
            query.push(format!(" and {column} = ")).push_bind(text.to_owned());
        }
        if let Some(since) = filter.since {
            query.push(" and at >= ").push_bind(since.unix_ms());
            query.push(" and id >= ").push_bind(filter.first_id());
        }
        if let Some(until) = filter.until {
            query.push(" and at <= ").push_bind(until.unix_ms());
            query.push(" and id <= ").push_bind(filter.last_id());
        }
        if let Some(before) = filter.before {
            query.push(" and id < ").push_bind(before);
        }
        query.push(" order by id desc limit ").push_bind(i64::from(filter.limit));
        query.build().fetch_all(&self.readers).await?.iter().map(entry_of).collect()
    }
}

fn entry_of(row: &SqliteRow) -> Result<AuditEntry, StoreError> {
    Ok(AuditEntry {
        id: row.try_get(0)?,
        actor: row.try_get(1)?,
        action: row.try_get(2)?,
        subject: row.try_get(3)?,
        app_id: row.try_get(4)?,
        ip: row.try_get::<Option<String>, _>(5)?.and_then(|ip| ip.parse().ok()),
        at: Timestamp::from_unix_ms(row.try_get(6)?),
    })
}
