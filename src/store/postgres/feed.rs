//! Inboxes in PostgreSQL, as they are read.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use oriva_hub_actors::model::{AppId, JsonObject, NotificationId, StreamKey, Timestamp, UserId};
use sqlx::{Postgres, QueryBuilder, Row, postgres::PgRow};
use uuid::Uuid;

use super::{PostgresStore, corrupt_row, notifications::state_at};
use crate::store::{
    NotificationStore, StatusCount, StoreError, TOTAL_CAP,
    notification::{AccessScope, Content, DeliveryReceipt, FeedFilter, FeedPage, Lookup, Notification, Priority},
    status::Status,
};

/// Everything of [`Notification`], from `s` and `platform_notifications n`.
const COLUMNS: &str = "s.status, s.delivered_at, s.read_at, s.dismissed_at, s.clicked_at, s.expired_at, \
     s.dismissed_from, s.click_action, s.created_at, s.updated_at, n.id, n.app_id, n.user_id, n.external_id, \
     n.notification_type, n.title, n.body, n.priority, n.action_url, n.action_label, n.image_url, n.icon_url, \
     n.context_data::text, n.expires_at";

#[async_trait]
impl NotificationStore for PostgresStore {
    async fn notification(&self, scope: &AccessScope, id: NotificationId) -> Result<Lookup, StoreError> {
        let tenant = match scope {
            AccessScope { user: Some(user), .. } => StreamKey::User(user.clone()),
            AccessScope { app: Some(app), .. } => StreamKey::App(app.clone()),
            AccessScope { user: None, app: None } => StreamKey::Broadcast,
        };
        let mut transaction = self.as_tenant(&tenant).await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from notification_state s join platform_notifications n on n.id = s.notification_id \
             where n.id = $1"
        )))
        .bind(id.0)
        .fetch_optional(&mut *transaction)
        .await?;
        transaction.commit().await?;
        if let Some(row) = row {
            let found = notification_of(&row)?;
            let is_theirs = scope.covers(&found.app_id, &found.user_id);
            return Ok(if is_theirs { Lookup::Found(Box::new(found)) } else { Lookup::NotInScope });
        }
        let exists: bool = sqlx::query_scalar("select exists (select from platform_notifications where id = $1)")
            .bind(id.0)
            .fetch_one(&self.pool)
            .await?;
        Ok(if exists { Lookup::NotInScope } else { Lookup::NotFound })
    }

    async fn feed(
        &self,
        scope: &AccessScope,
        user: &UserId,
        filter: &FeedFilter,
        now: Timestamp,
    ) -> Result<FeedPage, StoreError> {
        let mut transaction = self.as_tenant(&tenant(scope, user)).await?;
        let rows = feed_query(scope, user, filter, now).build().fetch_all(&mut *transaction).await?;
        let mut counting = QueryBuilder::new("select count(*) from (select from notification_state s");
        push_conditions(&mut counting, scope, user, filter, now);
        let names: Vec<&str> = filter.statuses.iter().map(|status| status.as_str()).collect();
        counting.push(" and s.status = any(").push_bind(names).push(")");
        if let Some(since) = filter.since {
            // Every urgency there is, by name: so the moment bounds the walk in the index.
            counting.push(" and s.urgency in (0, 1, 2, 3)");
            counting.push(" and s.created_at >= ").push_bind(since.as_datetime());
        }
        counting.push(" limit ").push_bind((TOTAL_CAP + 1).cast_signed()).push(") counted");
        let total: i64 = counting.build_query_scalar().fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        let notifications = rows.iter().map(notification_of).collect::<Result<_, _>>()?;
        Ok(FeedPage { notifications, total: total.unsigned_abs() })
    }

    async fn unread(&self, scope: &AccessScope, user: &UserId, now: Timestamp) -> Result<u64, StoreError> {
        let mut transaction = self.as_tenant(&tenant(scope, user)).await?;
        let mut query = QueryBuilder::new("select count(*) from notification_state s");
        push_owner(&mut query, scope.app.as_ref(), user);
        query.push(" and s.status = 'unread'");
        push_not_due(&mut query, now);
        let count: i64 = query.build_query_scalar().fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(count.unsigned_abs())
    }

    async fn counts(&self, scope: &AccessScope, user: &UserId, now: Timestamp) -> Result<Vec<StatusCount>, StoreError> {
        let mut transaction = self.as_tenant(&tenant(scope, user)).await?;
        let mut query = QueryBuilder::new("select s.app_id, case when s.expires_at <= ");
        query.push_bind(now.as_datetime());
        query.push(
            " and s.status in ('unread', 'read', 'clicked') then 'expired' else s.status end, count(*) \
             from notification_state s",
        );
        push_owner(&mut query, scope.app.as_ref(), user);
        query.push(" group by 1, 2");
        let rows = query.build().fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        rows.iter()
            .map(|row| {
                Ok(StatusCount {
                    app_id: AppId::parse(row.try_get(0)?).map_err(corrupt_row)?,
                    status: Status::from_name(row.try_get(1)?).unwrap_or(Status::Expired),
                    count: row.try_get::<i64, _>(2)?.unsigned_abs(),
                })
            })
            .collect()
    }

    async fn next_expiry(&self) -> Result<Option<Timestamp>, StoreError> {
        let next: Option<DateTime<Utc>> = sqlx::query_scalar(
            "select min(expires_at) from notification_state \
             where expires_at is not null and status in ('unread', 'read', 'clicked')",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(next.map(Timestamp::from))
    }

    async fn record_receipts(&self, receipts: &[DeliveryReceipt]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = receipts.iter().map(|receipt| receipt.id.0).collect();
        let apps: Vec<&str> = receipts.iter().map(|receipt| receipt.app_id.as_str()).collect();
        let users: Vec<&str> = receipts.iter().map(|receipt| receipt.user_id.as_str()).collect();
        let moments: Vec<DateTime<Utc>> = receipts.iter().map(|receipt| receipt.at.as_datetime()).collect();
        // Rows that somebody is changing are waited for in the order in which changes lock them.
        sqlx::query(
            "with seen as (select s.id, receipt.at from notification_state s \
             join unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) as receipt (id, app_id, user_id, at) \
             on s.notification_id = receipt.id and s.app_id = receipt.app_id and s.user_id = receipt.user_id \
             where s.delivered_at is null order by s.notification_id for update of s) \
             update notification_state s set delivered_at = seen.at from seen \
             where s.id = seen.id and s.delivered_at is null",
        )
        .bind(&ids)
        .bind(&apps)
        .bind(&users)
        .bind(&moments)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// Whose rows a look at `user`'s inbox may see: the app's own where the caller is an app, otherwise the user's.
fn tenant(scope: &AccessScope, user: &UserId) -> StreamKey {
    match scope {
        AccessScope { user: None, app: Some(app) } => StreamKey::App(app.clone()),
        _ => StreamKey::User(user.clone()),
    }
}

/// A page of a feed. Each status has its run in the index that is in the feed's order already; a page is the first rows
/// of a merge of them. With `since` each priority has its own run too, so that what is older is not walked over.
pub(super) fn feed_query(
    scope: &AccessScope,
    user: &UserId,
    filter: &FeedFilter,
    now: Timestamp,
) -> QueryBuilder<Postgres> {
    const ORDER: &str = " order by s.urgency desc, s.created_at desc, s.notification_id desc limit ";
    let rows = i64::from(filter.limit).saturating_add(filter.offset.cast_signed());
    let mut query = QueryBuilder::new(format!("select {COLUMNS} from ("));
    let urgencies: Vec<Option<i16>> = match filter.since {
        None => vec![None],
        Some(_) => Priority::ALL.into_iter().map(|priority| Some(priority.urgency())).collect(),
    };
    for (run, (status, urgency)) in
        filter.statuses.iter().flat_map(|status| urgencies.iter().map(move |urgency| (status, urgency))).enumerate()
    {
        query.push(if run == 0 { "(" } else { " union all (" });
        query.push("select s.* from notification_state s");
        push_conditions(&mut query, scope, user, filter, now);
        query.push(" and s.status = ").push_bind(status.as_str());
        if let (Some(urgency), Some(since)) = (urgency, filter.since) {
            query.push(" and s.urgency = ").push_bind(*urgency);
            query.push(" and s.created_at >= ").push_bind(since.as_datetime());
        }
        if let Some(after) = filter.after {
            query.push(" and (s.urgency, s.created_at, s.notification_id) < (").push_bind(after.urgency);
            query.push(", ").push_bind(after.created_at.as_datetime());
            query.push(", ").push_bind(after.id.0).push(")");
        }
        query.push(ORDER).push_bind(rows).push(")");
    }
    query.push(") s join platform_notifications n on n.id = s.notification_id");
    query.push(ORDER).push_bind(i64::from(filter.limit));
    query.push(" offset ").push_bind(filter.offset.cast_signed());
    query
}

/// Everything of a filter but status, moment and place.
fn push_conditions(
    query: &mut QueryBuilder<Postgres>,
    scope: &AccessScope,
    user: &UserId,
    filter: &FeedFilter,
    now: Timestamp,
) {
    push_owner(query, scope.app.as_ref().or(filter.app.as_ref()), user);
    // An app that asks for another's gets nothing.
    if let (Some(own), Some(asked)) = (&scope.app, &filter.app)
        && own != asked
    {
        query.push(" and false");
    }
    if let Some(kind) = &filter.notification_type {
        query.push(" and exists (select from platform_notifications n where n.id = s.notification_id");
        query.push(" and n.notification_type = ").push_bind(kind.clone()).push(")");
    }
    push_not_due(query, now);
}

fn push_owner(query: &mut QueryBuilder<Postgres>, app: Option<&AppId>, user: &UserId) {
    query.push(" where s.user_id = ").push_bind(user.as_str().to_owned());
    if let Some(app) = app {
        query.push(" and s.app_id = ").push_bind(app.as_str().to_owned());
    }
}

/// What is over is not shown, even before the worker has ended it.
fn push_not_due(query: &mut QueryBuilder<Postgres>, now: Timestamp) {
    query.push(" and (s.expires_at is null or s.status in ('dismissed', 'expired') or s.expires_at > ");
    query.push_bind(now.as_datetime()).push(")");
}

fn notification_of(row: &PgRow) -> Result<Notification, StoreError> {
    Ok(Notification {
        state: state_at(row, 0)?,
        id: NotificationId(row.try_get(10)?),
        app_id: AppId::parse(row.try_get(11)?).map_err(corrupt_row)?,
        user_id: UserId::parse(row.try_get(12)?).map_err(corrupt_row)?,
        content: Content {
            external_id: row.try_get(13)?,
            notification_type: row.try_get(14)?,
            title: row.try_get(15)?,
            body: row.try_get(16)?,
            priority: Priority::parse(row.try_get(17)?).unwrap_or_default(),
            action_url: row.try_get(18)?,
            action_label: row.try_get(19)?,
            image_url: row.try_get(20)?,
            icon_url: row.try_get(21)?,
            context_data: JsonObject::from_store(row.try_get(22)?),
            expires_at: row.try_get::<Option<DateTime<Utc>>, _>(23)?.map(Timestamp::from),
        },
    })
}
