//! Inboxes in SQLite, as they are read.

use async_trait::async_trait;
use oriva_hub_actors::model::{AppId, JsonObject, NotificationId, Timestamp, UserId};
use sqlx::{QueryBuilder, Row, Sqlite, sqlite::SqliteRow};

use super::{SqliteStore, corrupt_row, notifications::state_at};
use crate::store::{
    NotificationStore, StatusCount, StoreError, TOTAL_CAP,
    notification::{AccessScope, Content, DeliveryReceipt, FeedFilter, FeedPage, Lookup, Notification, Priority},
    status::Status,
};

/// Everything of [`Notification`], from `s` and `platform_notifications n`.
const COLUMNS: &str = "s.status, s.delivered_at, s.read_at, s.dismissed_at, s.clicked_at, s.expired_at, \
     s.dismissed_from, s.click_action, s.created_at, s.updated_at, n.id, n.app_id, n.user_id, n.external_id, \
     n.notification_type, n.title, n.body, n.priority, n.action_url, n.action_label, n.image_url, n.icon_url, \
     n.context_data, n.expires_at";

#[async_trait]
impl NotificationStore for SqliteStore {
    async fn notification(&self, scope: &AccessScope, id: NotificationId) -> Result<Lookup, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from notification_state s join platform_notifications n on n.id = s.notification_id \
             where n.id = ?1"
        )))
        .bind(id.0)
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok(Lookup::NotFound) };
        let found = notification_of(&row)?;
        let is_theirs = scope.covers(&found.app_id, &found.user_id);
        Ok(if is_theirs { Lookup::Found(Box::new(found)) } else { Lookup::NotInScope })
    }

    async fn feed(
        &self,
        scope: &AccessScope,
        user: &UserId,
        filter: &FeedFilter,
        now: Timestamp,
    ) -> Result<FeedPage, StoreError> {
        let mut transaction = self.readers.begin().await?;
        let rows = feed_query(scope, user, filter, now).build().fetch_all(&mut *transaction).await?;
        let mut counting = QueryBuilder::new("select count(*) from (select 1 from notification_state s");
        push_conditions(&mut counting, scope, user, filter, now);
        let mut names = counting.push(" and s.status in (").separated(", ");
        for status in &filter.statuses {
            names.push_bind(status.as_str());
        }
        counting.push(")");
        if let Some(since) = filter.since {
            // Every urgency there is, by name: so the moment bounds the walk in the index.
            counting.push(" and s.urgency in (0, 1, 2, 3)");
            counting.push(" and s.created_at >= ").push_bind(since.unix_ms());
        }
        counting.push(" limit ").push_bind((TOTAL_CAP + 1).cast_signed()).push(") counted");
        let total: i64 = counting.build_query_scalar().fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        let notifications = rows.iter().map(notification_of).collect::<Result<_, _>>()?;
        Ok(FeedPage { notifications, total: total.unsigned_abs() })
    }

    async fn unread(&self, scope: &AccessScope, user: &UserId, now: Timestamp) -> Result<u64, StoreError> {
        let mut query = QueryBuilder::new("select count(*) from notification_state s");
        push_owner(&mut query, scope.app.as_ref(), user);
        query.push(" and s.status = 'unread'");
        push_not_due(&mut query, now);
        let count: i64 = query.build_query_scalar().fetch_one(&self.readers).await?;
        Ok(count.unsigned_abs())
    }

    async fn counts(&self, scope: &AccessScope, user: &UserId, now: Timestamp) -> Result<Vec<StatusCount>, StoreError> {
        let mut query = QueryBuilder::new("select s.app_id, case when s.expires_at <= ");
        query.push_bind(now.unix_ms());
        query.push(
            " and s.status in ('unread', 'read', 'clicked') then 'expired' else s.status end, count(*) \
             from notification_state s",
        );
        push_owner(&mut query, scope.app.as_ref(), user);
        query.push(" group by 1, 2");
        let rows = query.build().fetch_all(&self.readers).await?;
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
        let next: Option<i64> = sqlx::query_scalar(
            "select min(expires_at) from notification_state \
             where expires_at is not null and status in ('unread', 'read', 'clicked')",
        )
        .fetch_one(&self.readers)
        .await?;
        Ok(next.map(Timestamp::from_unix_ms))
    }

    async fn record_receipts(&self, receipts: &[DeliveryReceipt]) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let mut transaction = self.begin().await?;
        for DeliveryReceipt { id, app_id, user_id, at } in receipts {
            sqlx::query(
                "update notification_state set delivered_at = ?4, updated_at = ?5 \
                 where notification_id = ?1 and app_id = ?2 and user_id = ?3 and delivered_at is null",
            )
            .bind(id.0)
            .bind(app_id.as_str())
            .bind(user_id.as_str())
            .bind(at.unix_ms())
            .bind(now.unix_ms())
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}

/// A page of a feed. Each status has its run in the index that is in the feed's order already; a page is the first rows
/// of a merge of them. With `since` each priority has its own run too, so that what is older is not walked over.
pub(super) fn feed_query(
    scope: &AccessScope,
    user: &UserId,
    filter: &FeedFilter,
    now: Timestamp,
) -> QueryBuilder<Sqlite> {
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
        query.push(if run == 0 { "" } else { " union all " });
        // A compound select takes an order and a limit for its whole only, hence the second select around each.
        query.push("select * from (select s.* from notification_state s");
        push_conditions(&mut query, scope, user, filter, now);
        query.push(" and s.status = ").push_bind(status.as_str());
        if let (Some(urgency), Some(since)) = (urgency, filter.since) {
            query.push(" and s.urgency = ").push_bind(*urgency);
            query.push(" and s.created_at >= ").push_bind(since.unix_ms());
        }
        if let Some(after) = filter.after {
            query.push(" and (s.urgency, s.created_at, s.notification_id) < (").push_bind(after.urgency);
            query.push(", ").push_bind(after.created_at.unix_ms());
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
    query: &mut QueryBuilder<Sqlite>,
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
        query.push(" and 1 = 0");
    }
    if let Some(kind) = &filter.notification_type {
        query.push(" and exists (select 1 from platform_notifications n where n.id = s.notification_id");
        query.push(" and n.notification_type = ").push_bind(kind.clone()).push(")");
    }
    push_not_due(query, now);
}

fn push_owner(query: &mut QueryBuilder<Sqlite>, app: Option<&AppId>, user: &UserId) {
    query.push(" where s.user_id = ").push_bind(user.as_str().to_owned());
    if let Some(app) = app {
        query.push(" and s.app_id = ").push_bind(app.as_str().to_owned());
    }
}

/// What is over is not shown, even before the worker has ended it.
fn push_not_due(query: &mut QueryBuilder<Sqlite>, now: Timestamp) {
    query.push(" and (s.expires_at is null or s.status in ('dismissed', 'expired') or s.expires_at > ");
    query.push_bind(now.unix_ms()).push(")");
}

fn notification_of(row: &SqliteRow) -> Result<Notification, StoreError> {
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
            expires_at: row.try_get::<Option<i64>, _>(23)?.map(Timestamp::from_unix_ms),
        },
    })
}
