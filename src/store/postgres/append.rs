//! Events, written by one statement: it raises their streams, numbers them, and adds deliveries and audit rows. A batch that
//! needs nothing before is that statement alone, which commits by itself: one round trip instead of five to eight. A database at
//! a distance answers so many times sooner, and holds the streams' rows no longer than it works itself.

use std::sync::{Arc, PoisonError};

use oriva_hub_actors::model::UserId;
use sqlx_pg::{PgConnection, Postgres, Row as _, postgres::PgRow};

use super::{
    PostgresStore,
    values::{push_select, push_source},
};
use crate::store::{
    StoreError,
    batch::{Decided, Insertion, Numbered, Places, StreamCounts, StreamOffsets, Written, stored_at},
    ip_text,
    sql::{
        append::{audit_rows, content_rows, state_rows},
        dialect::{Dialect as _, SqlRow as _},
        outbox::{pending_rows, subscriptions},
        rows::corrupt_row,
        statement::{Kind, Rows, Statement},
    },
    webhook::{PendingDelivery, Subscriptions},
};

/// How often what webhooks subscribe to may change while a batch is written.
const CHANGES: usize = 3;

/// Raises the streams if `$1` is still the revision of the webhooks' subscriptions; if not, nothing is written. `offsets` are the
/// ends of the streams in the order of their kinds and names, which the hub counts them in.
const RAISE: (&str, &str) = (
    "with raised as (insert into streams as stream (kind, key, last_offset) \
     select source.kind, source.key, source.count from hub_meta, ",
    " where hub_meta.key = 'webhook_revision' and hub_meta.value::bigint = $1 order by source.ordinal \
     on conflict (kind, key) do update set last_offset = stream.last_offset + excluded.last_offset \
     returning kind, key, last_offset), \
     ends as (select array_agg(last_offset order by kind collate \"C\", key collate \"C\") as offsets from raised)",
);

/// Ends each part that writes.
const IF_RAISED: &str = " where (select offsets from ends) is not null)";

const INSERT: &str = ", stored as (insert into platform_events (id, app_id, user_id, event_category, event_type, entity_type, \
     entity_id, event_data, from_platform, app_offset, user_offset, broadcast_offset, ip_address, user_agent, timestamp, \
     created_at, traceparent) select id, app_id, user_id, event_category, event_type, entity_type, entity_id, \
     event_data::json, from_platform, (select offsets from ends)[app_stream] - app_later, \
     case when user_id is not null then (select offsets from ends)[recipient] - recipient_later end, \
     case when user_id is null then (select offsets from ends)[recipient] - recipient_later end, \
     ip_address::inet, user_agent, timestamp, created_at, traceparent from ";

/// Waits for a transaction that is deleting the webhook, and then enqueues nothing for it.
const OWE: (&str, &str) = (
    ", owed as (insert into webhook_deliveries (id, webhook_id, app_id, event_id, event_type, next_attempt_at, created_at, \
     updated_at) select source.id, w.id, source.app_id, source.event_id, source.event_type, source.at, source.at, source.at \
     from ",
    " join app_webhooks w on w.id = source.webhook_id where (select offsets from ends) is not null for key share of w)",
);

impl PostgresStore {
    /// Writes and commits a batch that needs nothing before, with the notifications that it creates. `None` where this node's
    /// memory of what webhooks subscribe to is too old: nothing is written.
    pub(super) async fn append_at_once<'a>(
        &self,
        decided: Decided<'a>,
        insertions: &[Insertion<'a>],
    ) -> Result<Option<Written<'a>>, StoreError> {
        let known = self.known();
        let pending = known.match_events(decided.events().map(|(event, _)| event));
        let counts = decided.stream_counts();
        let statement = statement(&decided, &counts, &pending, insertions, &known)?;
        let is_raised = |rows: &[PgRow]| Ok(raised(&counts, rows)?.is_some());
        let rows = self.appending(|| self.appending.write(&statement, is_raised)).await?;
        let offsets = rows.map_or(Ok(None), |rows| raised(&counts, &rows))?;
        Ok(offsets.map(|offsets| Written { numbered: Numbered::new(decided, offsets), pending }))
    }

    /// Writes a batch's events in a transaction.
    pub(super) async fn append_events<'a>(
        &self,
        connection: &mut PgConnection,
        decided: Decided<'a>,
    ) -> Result<Written<'a>, StoreError> {
        let counts = decided.stream_counts();
        if counts.is_empty() {
            return Ok(Written { numbered: Numbered::new(decided, StreamOffsets::default()), pending: Vec::new() });
        }
        for _ in 0..CHANGES {
            let known = self.known();
            let pending = known.match_events(decided.events().map(|(event, _)| event));
            let statement = statement(&decided, &counts, &pending, &[], &known)?;
            let rows = Postgres::fetch_all(connection, statement).await?;
            if let Some(offsets) = raised(&counts, &rows)? {
                return Ok(Written { numbered: Numbered::new(decided, offsets), pending });
            }
            let revision = Statement::new("select value::bigint from hub_meta where key = 'webhook_revision'");
            let revision = Postgres::fetch_one(connection, revision).await?.big(0)?.cast_signed();
            let current = Arc::new(subscriptions::<Postgres>(connection, revision).await?);
            *self.subscriptions.write().unwrap_or_else(PoisonError::into_inner) = current;
        }
        Err(StoreError::Contended)
    }

    fn known(&self) -> Arc<Subscriptions> {
        self.subscriptions.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `None`: the streams were not raised.
fn raised(counts: &StreamCounts<'_>, rows: &[PgRow]) -> Result<Option<StreamOffsets>, StoreError> {
    let row = rows.first().ok_or_else(|| StoreError::failed("a query that always has a row had none"))?;
    let ends: Option<Vec<i64>> = row.try_get(0)?;
    ends.map(|ends| StreamOffsets::raised_to(counts, &ends).map_err(corrupt_row)).transpose()
}

fn statement<'q>(
    decided: &'q Decided<'_>,
    counts: &StreamCounts<'q>,
    pending: &'q [PendingDelivery],
    insertions: &'q [Insertion<'_>],
    known: &Subscriptions,
) -> Result<Statement<'q>, StoreError> {
    let mut statement = Statement::new("").bind(known.revision);
    let (before, after) = RAISE;
    push_source(statement.push(before), stream_rows(counts));
    statement.push(after);
    push_source(statement.push(INSERT), event_rows(decided, counts)?);
    statement.push(IF_RAISED);
    if !pending.is_empty() {
        let (before, after) = OWE;
        push_source(statement.push(before), pending_rows(pending, decided.now));
        statement.push(after);
    }
    push_insert(&mut statement, "audit_log", audit_rows(decided));
    push_insert(&mut statement, "platform_notifications", content_rows(insertions.iter(), decided.now));
    push_insert(&mut statement, "notification_state", state_rows(insertions.iter(), decided.now));
    statement.push(" select offsets from ends");
    Ok(statement)
}

/// Inserts rows into a table, if there are any.
fn push_insert<'q>(statement: &mut Statement<'q>, table: &str, rows: Rows<'q>) {
    if rows.values.is_empty() {
        return;
    }
    statement.push(format!(", new_{table} as (insert into {table} ({}) ", rows.names()));
    push_select(statement, rows);
    statement.push(IF_RAISED);
}

fn stream_rows<'q>(counts: &StreamCounts<'q>) -> Rows<'q> {
    let mut rows = Rows::new(&[("kind", Kind::Text), ("key", Kind::Text), ("count", Kind::Big)]);
    for ((kind, key), count) in counts {
        rows.push([(*kind).into(), (*key).into(), count.cast_signed().into()]);
    }
    rows
}

fn event_rows<'q>(decided: &'q Decided<'_>, counts: &StreamCounts<'q>) -> Result<Rows<'q>, StoreError> {
    let mut places = Places::new(counts);
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
        ("app_stream", Kind::Big),
        ("app_later", Kind::Big),
        ("recipient", Kind::Big),
        ("recipient_later", Kind::Big),
        ("ip_address", Kind::Address),
        ("user_agent", Kind::Text),
        ("timestamp", Kind::Moment),
        ("created_at", Kind::Moment),
        ("traceparent", Kind::Text),
    ]);
    for (event, origin) in decided.events() {
        let places = places.next(event);
        let [app, recipient] = places.ok_or_else(|| StoreError::failed("an event's stream was not counted"))?;
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
            app.stream.into(),
            app.later.into(),
            recipient.stream.into(),
            recipient.later.into(),
            ip_text(origin.ip).into(),
            origin.user_agent.as_deref().into(),
            event.timestamp.into(),
            stored_at(event, decided.now).into(),
            origin.trace.map(|trace| trace.to_string()).into(),
        ]);
    }
    Ok(rows)
}
