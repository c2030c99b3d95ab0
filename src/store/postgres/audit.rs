//! The audit log in PostgreSQL, as it is read.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use oriva_hub_actors::model::Timestamp;
use sqlx::{QueryBuilder, Row as _, postgres::PgRow};

use super::PostgresStore;
use crate::store::{AuditEntry, AuditFilter, AuditStore, StoreError};

#[async_trait]
impl AuditStore for PostgresStore {
    async fn audit_log(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError> {
        let mut query = QueryBuilder::new(
            "select id, actor, action, subject, app_id, host(ip_address), at from audit_log where true",
        );
        for (column, text) in filter.texts() {
            query.push(format!(" and {column} = ")).push_bind(text.to_owned());
        }
        if let Some(since) = filter.since {
            query.push(" and at >= ").push_bind(since.as_datetime());
            query.push(" and id >= ").push_bind(filter.first_id());
        }
        if let Some(until) = filter.until {
            query.push(" and at <= ").push_bind(until.as_datetime());
            query.push(" and id <= ").push_bind(filter.last_id());
        }
        if let Some(before) = filter.before {
            query.push(" and id < ").push_bind(before);
        }
        query.push(" order by id desc limit ").push_bind(i64::from(filter.limit));
        query.build().fetch_all(&self.pool).await?.iter().map(entry_of).collect()
    }
}

fn entry_of(row: &PgRow) -> Result<AuditEntry, StoreError> {
    Ok(AuditEntry {
        id: row.try_get(0)?,
        actor: row.try_get(1)?,
        action: row.try_get(2)?,
        subject: row.try_get(3)?,
        app_id: row.try_get(4)?,
        ip: row.try_get::<Option<String>, _>(5)?.and_then(|ip| ip.parse().ok()),
        at: Timestamp::from(row.try_get::<DateTime<Utc>, _>(6)?),
    })
}
