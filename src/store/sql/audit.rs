//! The audit log.

use async_trait::async_trait;
use oriva_hub_actors::model::{AppId, StreamKey};
use uuid::Uuid;

use super::{
    dialect::{Dialect, SqlStore},
    rows::audit_entry_from_row,
    statement::{Statement, Value},
};
use crate::store::{Audit, AuditEntry, AuditFilter, AuditStore, StoreError, ip_text};

#[async_trait]
impl<S: SqlStore> AuditStore for S {
    async fn audit_log(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError> {
        let mut query = Statement::new(format!(
            "select id, actor, action, subject, app_id, {}, at from audit_log where 1 = 1",
            S::Db::address_text("ip_address")
        ));
        for (column, text) in filter.texts() {
            query.push(format!(" and {column} = ")).push_bind(text);
        }
        // The ids bound the walk over the primary key; the moments decide.
        if let Some(since) = filter.since {
            query.push(" and at >= ").push_bind(since);
            query.push(" and id >= ").push_bind(filter.first_id());
        }
        if let Some(until) = filter.until {
            query.push(" and at <= ").push_bind(until);
            query.push(" and id <= ").push_bind(Value::Id(filter.last_id()));
        }
        if let Some(before) = filter.before {
            query.push(" and id < ").push_bind(before);
        }
        query.push(" order by id desc limit ").push_bind(i64::from(filter.limit));
        self.query_all(&StreamKey::Broadcast, query).await?.iter().map(audit_entry_from_row).collect()
    }
}

/// Writes one entry, by the database's clock.
pub(in crate::store) async fn write_audit<D: Dialect>(
    connection: &mut D::Connection,
    audit: &Audit,
    action: &str,
    subject: &str,
    app: &AppId,
) -> Result<(), StoreError> {
    let insert = Statement::new(format!(
        "insert into audit_log (id, actor, action, subject, app_id, ip_address, at) \
         values ($1, $2, $3, $4, $5, {}, {})",
        D::address("$6"),
        D::NOW
    ));
    let insert = insert.bind(Uuid::now_v7()).bind(&audit.actor).bind(action).bind(subject).bind(app.as_str());
    D::execute(connection, insert.bind(ip_text(audit.ip))).await.map(drop)
}
