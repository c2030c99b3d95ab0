//! Notifications in SQLite, as the writing transaction changes them.

use std::collections::{HashMap, HashSet};

use oriva_hub_actors::model::{AppId, NotificationId, Timestamp};
use sqlx::{QueryBuilder, SqliteConnection};
use uuid::Uuid;

use crate::store::{
    NotificationRecord, Status, StoreError,
    batch::{Batch, Planned},
    sql::{
        rows::{RECORD, record_from_row},
        statement::runs,
    },
};

pub(super) async fn create(connection: &mut SqliteConnection, batch: &mut Batch<'_>) -> Result<(), StoreError> {
    let planned = batch.planned();
    let mut created = HashSet::new();
    for run in runs(&planned) {
        created.extend(insert_contents(connection, run, batch.now).await?);
    }
    let (new, taken): (Vec<_>, Vec<_>) = planned.iter().partition(|planned| created.contains(&planned.new.id));
    for run in runs(&new) {
        insert_states(connection, run, batch.now).await?;
    }
    let mut owners = HashMap::new();
    for planned in taken {
        let owner: Uuid =
            sqlx::query_scalar("select id from platform_notifications where app_id = ?1 and external_id = ?2")
                .bind(planned.app_id.as_str())
                .bind(&planned.new.content.external_id)
                .fetch_one(&mut *connection)
                .await?;
        owners.insert(planned.new.id, NotificationId(owner));
    }
    batch.created(&planned, |planned| owners.get(&planned.new.id).copied());
    Ok(())
}

/// Those that are written; not those whose external id is another's.
async fn insert_contents(
    connection: &mut SqliteConnection,
    run: &[Planned<'_>],
    now: Timestamp,
) -> Result<Vec<NotificationId>, StoreError> {
    let mut insert = QueryBuilder::new(
        "insert into platform_notifications (id, app_id, user_id, external_id, title, body, notification_type, \
         priority, action_url, action_label, image_url, icon_url, context_data, expires_at, created_at, updated_at) ",
    );
    insert.push_values(run, |mut row, planned| {
        let content = &planned.new.content;
        row.push_bind(planned.new.id.0)
            .push_bind(planned.app_id.as_str().to_owned())
            .push_bind(planned.new.user_id.as_str().to_owned())
            .push_bind(content.external_id.clone())
            .push_bind(content.title.clone())
            .push_bind(content.body.clone())
            .push_bind(content.notification_type.clone())
            .push_bind(content.priority.as_str())
            .push_bind(content.action_url.clone())
            .push_bind(content.action_label.clone())
            .push_bind(content.image_url.clone())
            .push_bind(content.icon_url.clone())
            .push_bind(content.context_data.as_str().to_owned())
            .push_bind(content.expires_at.map(Timestamp::unix_ms))
            .push_bind(now.unix_ms())
            .push_bind(now.unix_ms());
    });
    insert.push(" on conflict (app_id, external_id) where external_id is not null do nothing returning id");
    let ids: Vec<Uuid> = insert.build_query_scalar().fetch_all(connection).await?;
    Ok(ids.into_iter().map(NotificationId).collect())
}

async fn insert_states(
    connection: &mut SqliteConnection,
    run: &[&Planned<'_>],
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut insert = QueryBuilder::new(
        "insert into notification_state (id, notification_id, user_id, app_id, urgency, expires_at, status, sent_at, \
         created_at, updated_at) ",
    );
    insert.push_values(run, |mut row, planned| {
        row.push_bind(Uuid::new_v4())
            .push_bind(planned.new.id.0)
            .push_bind(planned.new.user_id.as_str().to_owned())
            .push_bind(planned.app_id.as_str().to_owned())
            .push_bind(planned.new.content.priority.urgency())
            .push_bind(planned.new.content.expires_at.map(Timestamp::unix_ms))
            .push_bind("unread")
            .push_bind(now.unix_ms())
            .push_bind(now.unix_ms())
            .push_bind(now.unix_ms());
    });
    insert.build().execute(connection).await?;
    Ok(())
}

pub(super) async fn change(connection: &mut SqliteConnection, batch: &mut Batch<'_>) -> Result<(), StoreError> {
    let mut records = Vec::new();
    for id in batch.changed_ids() {
        records.extend(record(connection, id).await?);
    }
    store(connection, &batch.change(records)).await
}

pub(super) async fn delete(connection: &mut SqliteConnection, batch: &mut Batch<'_>) -> Result<(), StoreError> {
    for (item, id) in batch.deletions() {
        let record = record(connection, id).await?;
        if batch.delete(item, record.as_ref()) {
            sqlx::query("delete from platform_notifications where id = ?1")
                .bind(id.0)
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}

pub(super) async fn read_all(connection: &mut SqliteConnection, batch: &mut Batch<'_>) -> Result<(), StoreError> {
    for (item, all) in batch.read_alls() {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{RECORD} where s.user_id = ?1 and s.status = 'unread' and (?2 is null or s.app_id = ?2) \
             and (?3 is null or s.created_at < ?3) and (s.expires_at is null or s.expires_at > ?4) limit ?5"
        )))
        .bind(all.user.as_str())
        .bind(all.app.as_ref().map(AppId::as_str))
        .bind(all.before.map(Timestamp::unix_ms))
        .bind(batch.now.unix_ms())
        .bind(i64::from(all.limit))
        .fetch_all(&mut *connection)
        .await?;
        let unread = rows.iter().map(record_from_row).collect::<Result<_, _>>()?;
        store(connection, &batch.transition_unchecked(item, unread, Status::Read)).await?;
    }
    Ok(())
}

pub(super) async fn expire(connection: &mut SqliteConnection, batch: &mut Batch<'_>) -> Result<(), StoreError> {
    for (item, until, limit) in batch.expiries() {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{RECORD} where s.expires_at is not null and s.expires_at <= ?1 \
             and s.status in ('unread', 'read', 'clicked') order by s.expires_at limit ?2"
        )))
        .bind(until.unix_ms())
        .bind(i64::from(limit))
        .fetch_all(&mut *connection)
        .await?;
        let due = rows.iter().map(record_from_row).collect::<Result<_, _>>()?;
        store(connection, &batch.transition_unchecked(item, due, Status::Expired)).await?;
    }
    Ok(())
}

async fn record(
    connection: &mut SqliteConnection,
    id: NotificationId,
) -> Result<Option<NotificationRecord>, StoreError> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{RECORD} where s.notification_id = ?1")))
        .bind(id.0)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(record_from_row).transpose()
}

async fn store(connection: &mut SqliteConnection, records: &[NotificationRecord]) -> Result<(), StoreError> {
    for NotificationRecord { id, state, .. } in records {
        sqlx::query(
            "update notification_state set status = ?2, read_at = ?3, dismissed_at = ?4, clicked_at = ?5, \
             expired_at = ?6, dismissed_from = ?7, click_action = ?8, updated_at = ?9 where notification_id = ?1",
        )
        .bind(id.0)
        .bind(state.status.as_str())
        .bind(state.read_at.map(Timestamp::unix_ms))
        .bind(state.dismissed_at.map(Timestamp::unix_ms))
        .bind(state.clicked_at.map(Timestamp::unix_ms))
        .bind(state.expired_at.map(Timestamp::unix_ms))
        .bind(&state.dismissed_from)
        .bind(&state.click_action)
        .bind(state.updated_at.unix_ms())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
