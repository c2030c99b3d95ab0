//! Nodes in PostgreSQL, on the database's own clock.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use oriva_hub_actors::model::{NodeId, Timestamp};
use sqlx_pg::Row as _;

use super::PostgresStore;
use crate::store::{Heartbeats, NODE_LIFE, NodeBeat, NodeStore, StoreError, sql::statement::Statement};

#[async_trait]
impl NodeStore for PostgresStore {
    async fn beat(&self, own: &NodeBeat) -> Result<Heartbeats, StoreError> {
        let beat = Statement::new(format!(
            "with own as (insert into nodes (node_id, on_bus, connections, users) values ($1, $2, $3, $4) \
             on conflict (node_id) do update set seen_at = now(), on_bus = excluded.on_bus, \
             connections = excluded.connections, users = excluded.users), \
             gone as (delete from nodes where seen_at < now() - interval '1 hour') \
             select clock_timestamp(), other.node_id, other.on_bus, other.connections, other.users \
             from (select 1) always left join nodes other \
             on other.node_id <> $1 and other.seen_at > now() - interval '{} seconds'",
            NODE_LIFE.as_secs()
        ))
        .bind(own.node.0)
        .bind(own.on_bus)
        .bind(i64::try_from(own.connections).unwrap_or(i64::MAX))
        .bind(i64::try_from(own.users).unwrap_or(i64::MAX));
        let rows = self.run(beat).await?;
        let mut beats = Heartbeats::default();
        for row in &rows {
            beats.now = Some(Timestamp::from(row.try_get::<DateTime<Utc>, _>(0)?));
            if let Some(node) = row.try_get(1)? {
                beats.others.push(NodeBeat {
                    node: NodeId(node),
                    on_bus: row.try_get(2)?,
                    connections: row.try_get::<i32, _>(3)?.unsigned_abs() as usize,
                    users: row.try_get::<i32, _>(4)?.unsigned_abs() as usize,
                });
            }
        }
        Ok(beats)
    }

    async fn leave(&self, node: NodeId) -> Result<(), StoreError> {
        self.run(Statement::new("delete from nodes where node_id = $1").bind(node.0)).await.map(drop)
    }
}
