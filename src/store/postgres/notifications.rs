//! Notifications in PostgreSQL, as the writing transaction changes them.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use oriva_hub_actors::model::{AppId, NotificationId, Timestamp};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::store::{
    NotificationRecord, NotificationState, Status, StoreError,
    batch::{Batch, Planned},
    sql::rows::{RECORD, record_from_row},
};

pub(super) async fn create(connection: &mut PgConnection, batch: &mut Batch<'_>) -> Result<(), StoreError> {
    let planned = batch.planned();
    if planned.is_empty() {
        batch.created(&planned, |_| None);
        return Ok(());
    }
    let inserted = insert_contents(connection, &planned, batch.now).await?;
    let owners = if inserted.len() == planned.len() { HashMap::new() } else { owners(connection, &planned).await? };
    let is_lost = |planned: &Planned<'_>| {
        !inserted.contains(&planned.new.id.0) && !owners.contains_key(&owner_key(planned).unwrap_or_default())
    };
    if planned.iter().any(is_lost) {
        // The owner was deleted between the two statements.
        return Err(StoreError::Contended);
    }
    let fresh: Vec<&Planned<'_>> = planned.iter().filter(|planned| inserted.contains(&planned.new.id.0)).collect();
    insert_states(connection, &fresh, batch.now).await?;
    batch.created(&planned, |planned| {
        if inserted.contains(&planned.new.id.0) { None } else { owners.get(&owner_key(planned)?).copied() }
    });
    Ok(())
}

fn owner_key(planned: &Planned<'_>) -> Option<(String, String)> {
    Some((planned.app_id.to_string(), planned.new.content.external_id.clone()?))
}

/// Inserts what is not there yet; the ids of what was inserted. Who comes second to an external id waits here for the
/// first one's end.
async fn insert_contents(
    connection: &mut PgConnection,
    planned: &[Planned<'_>],
    now: Timestamp,
) -> Result<HashSet<Uuid>, StoreError> {
    let column = |of: fn(&Planned<'_>) -> Option<String>| planned.iter().map(of).collect::<Vec<_>>();
    let ids: Vec<Uuid> = planned.iter().map(|planned| planned.new.id.0).collect();
    let apps: Vec<&str> = planned.iter().map(|planned| planned.app_id.as_str()).collect();
    let users: Vec<&str> = planned.iter().map(|planned| planned.new.user_id.as_str()).collect();
    let expiries: Vec<Option<DateTime<Utc>>> =
        planned.iter().map(|planned| planned.new.content.expires_at.map(Timestamp::as_datetime)).collect();
    let inserted = sqlx::query_scalar(
        "insert into platform_notifications (id, app_id, user_id, external_id, title, body, notification_type, \
         priority, action_url, action_label, image_url, icon_url, context_data, expires_at, created_at, updated_at) \
         select id, app_id, user_id, external_id, title, body, type, priority, action_url, action_label, image_url, \
         icon_url, context_data::jsonb, expires_at, $15, $15 \
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
         $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::timestamptz[]) with ordinality as new \
         (id, app_id, user_id, external_id, title, body, type, priority, action_url, action_label, image_url, \
         icon_url, context_data, expires_at, position) order by position \
         on conflict (app_id, external_id) where external_id is not null do nothing returning id",
    )
    .bind(&ids)
    .bind(&apps)
    .bind(&users)
    .bind(column(|planned| planned.new.content.external_id.clone()))
    .bind(column(|planned| Some(planned.new.content.title.clone())))
    .bind(column(|planned| Some(planned.new.content.body.clone())))
    .bind(column(|planned| Some(planned.new.content.notification_type.clone())))
    .bind(column(|planned| Some(planned.new.content.priority.as_str().to_owned())))
    .bind(column(|planned| planned.new.content.action_url.clone()))
    .bind(column(|planned| planned.new.content.action_label.clone()))
    .bind(column(|planned| planned.new.content.image_url.clone()))
    .bind(column(|planned| planned.new.content.icon_url.clone()))
    .bind(column(|planned| Some(planned.new.content.context_data.as_str().to_owned())))
    .bind(&expiries)
    .bind(now.as_datetime())
    .fetch_all(connection)
    .await?;
    Ok(inserted.into_iter().collect())
}

/// Whose the external ids are.
async fn owners(
    connection: &mut PgConnection,
    planned: &[Planned<'_>],
) -> Result<HashMap<(String, String), NotificationId>, StoreError> {
    let (apps, externals): (Vec<String>, Vec<String>) = planned.iter().filter_map(owner_key).unzip();
    let rows = sqlx::query(
        "select n.app_id, n.external_id, n.id from platform_notifications n \
         join unnest($1::text[], $2::text[]) as wanted (app_id, external_id) using (app_id, external_id)",
    )
    .bind(&apps)
    .bind(&externals)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), NotificationId(row.try_get(2)?)))).collect()
}

async fn insert_states(
    connection: &mut PgConnection,
    planned: &[&Planned<'_>],
    now: Timestamp,
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = planned.iter().map(|planned| planned.new.id.0).collect();
    let urgencies: Vec<i16> = planned.iter().map(|planned| planned.new.content.priority.urgency()).collect();
    sqlx::query(
        "insert into notification_state (id, notification_id, user_id, app_id, urgency, expires_at, status, sent_at, \
         created_at, updated_at) \
         select gen_random_uuid(), n.id, n.user_id, n.app_id, new.urgency, n.expires_at, 'unread', $3, $3, $3 \
         from unnest($1::uuid[], $2::smallint[]) as new (id, urgency) join platform_notifications n using (id)",
    )
    .bind(&ids)
    .bind(&urgencies)
    .bind(now.as_datetime())
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn change(connection: &mut PgConnection, batch: &mut Batch<'_>) -> Result<(), StoreError> {
    let ids = batch.changed_ids();
    if ids.is_empty() {
        return Ok(());
    }
    let records = lock(connection, &ids).await?;
    store(connection, &batch.change(records)).await
}

pub(super) async fn delete(connection: &mut PgConnection, batch: &mut Batch<'_>) -> Result<(), StoreError> {
    for (item, id) in batch.deletions() {
        let record = lock(connection, &[id]).await?.pop();
        if batch.delete(item, record.as_ref()) {
            sqlx::query("delete from platform_notifications where id = $1")
                .bind(id.0)
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}

pub(super) async fn read_all(connection: &mut PgConnection, batch: &mut Batch<'_>) -> Result<(), StoreError> {
    for (item, all) in batch.read_alls() {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{RECORD} where s.status = 'unread' and s.notification_id in (select notification_id \
             from notification_state where user_id = $1 and status = 'unread' and ($2::text is null or app_id = $2) \
             and ($3::timestamptz is null or created_at < $3) and (expires_at is null or expires_at > $4) limit $5) \
             order by s.notification_id for update of s"
        )))
        .bind(all.user.as_str())
        .bind(all.app.as_ref().map(AppId::as_str))
        .bind(all.before.map(Timestamp::as_datetime))
        .bind(batch.now.as_datetime())
        .bind(i64::from(all.limit))
        .fetch_all(&mut *connection)
        .await?;
        let unread = rows.iter().map(record_from_row).collect::<Result<_, _>>()?;
        store(connection, &batch.transition_unchecked(item, unread, Status::Read)).await?;
    }
    Ok(())
}

/// What another node is just ending, or somebody just dismisses, is left to them.
pub(super) async fn expire(connection: &mut PgConnection, batch: &mut Batch<'_>) -> Result<(), StoreError> {
    for (item, until, limit) in batch.expiries() {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{RECORD} where s.expires_at <= $1 and s.status in ('unread', 'read', 'clicked') \
             order by s.expires_at limit $2 for update of s skip locked"
        )))
        .bind(until.as_datetime())
        .bind(i64::from(limit))
        .fetch_all(&mut *connection)
        .await?;
        let due = rows.iter().map(record_from_row).collect::<Result<_, _>>()?;
        store(connection, &batch.transition_unchecked(item, due, Status::Expired)).await?;
    }
    Ok(())
}

/// How these stand, held until the transaction ends; in an order that is the same for everybody.
async fn lock(connection: &mut PgConnection, ids: &[NotificationId]) -> Result<Vec<NotificationRecord>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "{RECORD} where s.notification_id = any($1) order by s.notification_id for update of s"
    )))
    .bind(&ids)
    .fetch_all(connection)
    .await?;
    rows.iter().map(record_from_row).collect()
}

async fn store(connection: &mut PgConnection, records: &[NotificationRecord]) -> Result<(), StoreError> {
    if records.is_empty() {
        return Ok(());
    }
    type Moment = Option<DateTime<Utc>>;
    let moments = |of: fn(&NotificationState) -> Option<Timestamp>| -> Vec<Moment> {
        records.iter().map(|record| of(&record.state).map(Timestamp::as_datetime)).collect()
    };
    let ids: Vec<Uuid> = records.iter().map(|record| record.id.0).collect();
    let statuses: Vec<&str> = records.iter().map(|record| record.state.status.as_str()).collect();
    let from: Vec<Option<&str>> = records.iter().map(|s| s.state.dismissed_from.as_deref()).collect();
    let actions: Vec<Option<&str>> = records.iter().map(|s| s.state.click_action.as_deref()).collect();
    sqlx::query(
        "update notification_state s set status = new.status, read_at = new.read_at, \
         dismissed_at = new.dismissed_at, clicked_at = new.clicked_at, expired_at = new.expired_at, \
         dismissed_from = new.dismissed_from, click_action = new.click_action, updated_at = new.updated_at \
         from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], \
         $6::timestamptz[], $7::text[], $8::text[], $9::timestamptz[]) as new (id, status, read_at, dismissed_at, \
         clicked_at, expired_at, dismissed_from, click_action, updated_at) \
         where s.notification_id = new.id",
    )
    .bind(&ids)
    .bind(&statuses)
    .bind(moments(|state| state.read_at))
    .bind(moments(|state| state.dismissed_at))
    .bind(moments(|state| state.clicked_at))
    .bind(moments(|state| state.expired_at))
    .bind(&from)
    .bind(&actions)
    .bind(moments(|state| Some(state.updated_at)))
    .execute(connection)
    .await?;
    Ok(())
}
