//! Events, written step by step: SQLite has no statement that writes several tables.

use std::sync::{Arc, PoisonError};

use oriva_hub_actors::model::UserId;
use sqlx::{Sqlite, SqliteConnection};

use super::SqliteStore;
use crate::store::{
    StoreError,
    batch::{Decided, EventRow, Numbered, StreamCounts, StreamOffsets, Written},
    ip_text,
    sql::{
        append::audit_rows,
        dialect::Dialect as _,
        outbox::{insert_deliveries, subscriptions},
        rows::stream_offsets,
        statement::{Kind, Rows, Statement},
    },
    webhook::Subscriptions,
};

impl SqliteStore {
    /// Writes a batch's events in a transaction.
    pub(super) async fn append_events<'a>(
        &self,
        connection: &mut SqliteConnection,
        decided: Decided<'a>,
    ) -> Result<Written<'a>, StoreError> {
        let now = decided.now;
        let (offsets, revision) = raise_streams(connection, &decided.stream_counts()).await?;
        let known = self.current_subscriptions(connection, revision).await?;
        let pending = known.match_events(decided.events().map(|(event, _)| event));
        insert(connection, "audit_log", audit_rows(&decided)).await?;
        let numbered = Numbered::new(decided, offsets);
        insert(connection, "platform_events", event_rows(&numbered)).await?;
        insert_deliveries::<Sqlite>(connection, &pending, now).await?;
        Ok(Written { numbered, pending })
    }

    /// What webhooks subscribe to. It is read again if the store has another revision than this process's memory, whoever made
    /// it.
    async fn current_subscriptions(
        &self,
        connection: &mut SqliteConnection,
        revision: i64,
    ) -> Result<Arc<Subscriptions>, StoreError> {
        let known = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner).clone();
        // 0: no stream was raised, so there are no events to match.
        if known.revision == revision || revision == 0 {
            return Ok(known);
        }
        let current = Arc::new(subscriptions::<Sqlite>(connection, revision).await?);
        *self.subscriptions.write().unwrap_or_else(PoisonError::into_inner) = current.clone();
        Ok(current)
    }
}

async fn insert(connection: &mut SqliteConnection, table: &str, rows: Rows<'_>) -> Result<(), StoreError> {
    let insert = format!("insert into {table} ({}) ", rows.names());
    Sqlite::execute_each(connection, Sqlite::with_rows(&insert, rows, "")).await.map(drop)
}

/// Raises streams by these numbers of events. Returns the offsets, and the revision of the webhooks' subscriptions (0 if there
/// is nothing to raise).
async fn raise_streams(
    connection: &mut SqliteConnection,
    counts: &StreamCounts<'_>,
) -> Result<(StreamOffsets, i64), StoreError> {
    if counts.is_empty() {
        return Ok(Default::default());
    }
    let raised: Vec<_> = counts.iter().map(|((kind, key), count)| (kind, key, count)).collect();
    // The rows as one JSON value: each statement costs a switch to the connection's thread and back.
    let raise = Statement::new(
        "insert into streams (kind, key, last_offset) \
         select value ->> 0, value ->> 1, value ->> 2 from json_each($1) where true \
         on conflict (kind, key) do update set last_offset = last_offset + excluded.last_offset \
         returning kind, key, last_offset, \
         (select cast(value as integer) from hub_meta where key = 'webhook_revision')",
    )
    .bind(serde_json::to_string(&raised).map_err(StoreError::failed)?);
    stream_offsets(counts, &Sqlite::fetch_all(connection, raise).await?)
}

fn event_rows<'q>(numbered: &'q Numbered<'_>) -> Rows<'q> {
    let mut rows = Rows::new(&[
        ("id", Kind::Id),
        ("app_id", Kind::Text),
        ("user_id", Kind::Text),
        ("event_category", Kind::Text),
        ("event_type", Kind::Text),
        ("entity_type", Kind::Text),
        ("entity_id", Kind::Text),
        ("event_data", Kind::Json),
        ("from_platform", Kind::Flag),
        ("app_offset", Kind::Big),
        ("user_offset", Kind::Big),
        ("broadcast_offset", Kind::Big),
        ("ip_address", Kind::Address),
        ("user_agent", Kind::Text),
        ("timestamp", Kind::Moment),
        ("created_at", Kind::Moment),
        ("traceparent", Kind::Text),
    ]);
    for EventRow { published, origin } in numbered.events() {
        let event = published.event();
        rows.push([
            event.id.0.into(),
            event.app_id.as_str().into(),
            event.user_id.as_ref().map(UserId::as_str).into(),
            event.category.as_str().into(),
            event.event_type.as_str().into(),
            (&event.entity_type).into(),
            (&event.entity_id).into(),
            event.data.as_str().into(),
            event.from_platform.into(),
            event.offsets.app.cast_signed().into(),
            event.offsets.user.map(u64::cast_signed).into(),
            event.offsets.broadcast.map(u64::cast_signed).into(),
            ip_text(origin.ip).into(),
            origin.user_agent.as_deref().into(),
            event.timestamp.into(),
            event.created_at.into(),
            event.trace.map(|trace| trace.to_string()).into(),
        ]);
    }
    rows
}
