//! Inboxes, as they are read.

use async_trait::async_trait;
use oriva_hub_actors::model::{AppId, Invalid, NotificationId, StreamKey, Timestamp, UserId};

use super::{
    dialect::{Commit as _, Dialect, SqlRow as _, SqlStore},
    rows::{corrupt_row, notification_columns, notification_from_row, status_from_text},
    statement::{Kind, Rows, Statement},
};
use crate::store::{
    AccessScope, DeliveryReceipt, FeedFilter, FeedPage, Lookup, NotificationStore, Priority, StatusCount, StoreError,
    TOTAL_CAP, UnreadCount, Validity,
};

/// The order of a feed, and of the index that serves it.
const ORDER: &str = " order by s.urgency desc, s.created_at desc, s.notification_id desc limit ";

#[async_trait]
impl<S: SqlStore> NotificationStore for S {
    async fn notification(&self, scope: &AccessScope, id: NotificationId) -> Result<Lookup, StoreError> {
        let tenant = match scope {
            AccessScope { user: Some(user), .. } => StreamKey::User(user.clone()),
            AccessScope { app: Some(app), .. } => StreamKey::App(app.clone()),
            AccessScope { user: None, app: None } => StreamKey::Broadcast,
        };
        let query = Statement::new(format!(
            "select {} from notification_state s join platform_notifications n on n.id = s.notification_id \
             where n.id = $1",
            notification_columns::<S::Db>()
        ));
        if let Some(row) = self.query_optional(&tenant, query.bind(id.0)).await? {
            let found = notification_from_row(&row)?;
            let is_in_scope = scope.covers(&found.app_id, &found.user_id);
            return Ok(if is_in_scope { Lookup::Found(Box::new(found)) } else { Lookup::NotInScope });
        }
        // Row level security may have hidden it.
        let query = Statement::new("select 1 from platform_notifications where id = $1").bind(id.0);
        let exists = self.query_optional(&StreamKey::Broadcast, query).await?.is_some();
        Ok(if exists { Lookup::NotInScope } else { Lookup::NotFound })
    }

    async fn feed(
        &self,
        scope: &AccessScope,
        user: &UserId,
        filter: &FeedFilter,
        now: Timestamp,
        counted: Option<UnreadCount>,
    ) -> Result<FeedPage, StoreError> {
        let (mut transaction, head) = self.begin_read_at(&tenant(scope, user), &StreamKey::User(user.clone())).await?;
        let rows = S::Db::fetch_all(&mut transaction, feed_query::<S::Db>(scope, user, filter, now)).await?;
        let mut count = Statement::new("select count(*) from (select 1 from notification_state s");
        push_conditions(&mut count, scope, user, filter, now);
        count.push(" and s.status in ").push_list(filter.statuses.iter().map(|status| status.as_str()));
        if let Some(urgencies) = urgencies(filter) {
            count.push(" and s.urgency in ").push_list(urgencies);
            push_moments(&mut count, filter);
        }
        count.push(" limit ").push_bind((TOTAL_CAP + 1).cast_signed()).push(") counted");
        let total = S::Db::fetch_one(&mut transaction, count).await?.big(0)?;
        let unread = match counted.filter(|counted| counted.validity.holds(head, now)) {
            Some(counted) => counted,
            None => {
                let mut query = Statement::new("select count(*), min(s.expires_at) from notification_state s");
                push_owner(&mut query, scope.app.as_ref(), user);
                query.push(" and s.status = 'unread'");
                push_not_expired(&mut query, now);
                let row = S::Db::fetch_one(&mut transaction, query).await?;
                UnreadCount { count: row.big(0)?, validity: Validity { head, next_expiry: row.moment_or_null(1)? } }
            }
        };
        transaction.commit().await?;
        let notifications = rows.iter().map(notification_from_row).collect::<Result<_, _>>()?;
        Ok(FeedPage { notifications, total, unread })
    }

    async fn counts(
        &self,
        scope: &AccessScope,
        user: &UserId,
        now: Timestamp,
    ) -> Result<(Vec<StatusCount>, Option<Timestamp>), StoreError> {
        let mut query = Statement::new("select s.app_id, case when s.expires_at <= ");
        query.push_bind(now).push(
            " and s.status in ('unread', 'read', 'clicked') then 'expired' else s.status end, count(*), \
             min(case when s.status in ('unread', 'read', 'clicked') and s.expires_at > ",
        );
        query.push_bind(now).push(" then s.expires_at end) from notification_state s");
        push_owner(&mut query, scope.app.as_ref(), user);
        query.push(" group by 1, 2");
        let (mut counts, mut next_expiry) = (Vec::new(), None);
        for row in self.query_all(&tenant(scope, user), query).await? {
            counts.push(StatusCount {
                app_id: AppId::parse(&row.text(0)?).map_err(|error: Invalid| corrupt_row(error))?,
                status: status_from_text(&row.text(1)?)?,
                count: row.big(2)?,
            });
            next_expiry = [next_expiry, row.moment_or_null(3)?].into_iter().flatten().min();
        }
        Ok((counts, next_expiry))
    }

    async fn next_expiry(&self) -> Result<Option<Timestamp>, StoreError> {
        let query = Statement::new(
            "select min(expires_at) from notification_state \
             where expires_at is not null and status in ('unread', 'read', 'clicked')",
        );
        self.query_one(query).await?.moment_or_null(0)
    }

    async fn record_receipts(&self, receipts: &[DeliveryReceipt]) -> Result<(), StoreError> {
        let mut transaction = self.begin_write().await?;
        let mut rows =
            Rows::new(&[("id", Kind::Id), ("app_id", Kind::Text), ("user_id", Kind::Text), ("at", Kind::Moment)]);
        for DeliveryReceipt { id, app_id, user_id, at } in receipts {
            rows.push([id.0.into(), app_id.as_str().into(), user_id.as_str().into(), (*at).into()]);
        }
        let with = "with receipt (id, app_id, user_id, at) as (";
        // The rows are locked in the order in which changes lock them.
        let after = format!(
            "), due as (select s.notification_id, receipt.at from notification_state s join receipt \
             on s.notification_id = receipt.id and s.app_id = receipt.app_id and s.user_id = receipt.user_id \
             where s.delivered_at is null order by s.notification_id{}) \
             update notification_state as s set delivered_at = due.at, updated_at = {} from due \
             where s.notification_id = due.notification_id",
            S::Db::LOCK_S,
            S::Db::NOW
        );
        S::Db::execute_each(&mut transaction, S::Db::with_rows(with, rows, &after)).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Whose rows a read of `user`'s inbox may see: the app's own where the caller is an app, otherwise the user's.
fn tenant(scope: &AccessScope, user: &UserId) -> StreamKey {
    match scope {
        AccessScope { user: None, app: Some(app) } => StreamKey::App(app.clone()),
        _ => StreamKey::User(user.clone()),
    }
}

/// A page of a feed. Each status has a run in the index that is in the feed's order already, and a page is the head of a
/// merge of those runs. With a priority or a moment each priority has a run of its own too, so that other rows are not walked
/// over.
pub(in crate::store) fn feed_query<'q, D: Dialect>(
    scope: &'q AccessScope,
    user: &'q UserId,
    filter: &'q FeedFilter,
    now: Timestamp,
) -> Statement<'q> {
    let rows = i64::from(filter.limit).saturating_add(filter.offset.cast_signed());
    let urgencies: Vec<Option<i16>> = match urgencies(filter) {
        None => vec![None],
        Some(urgencies) => urgencies.into_iter().map(Some).collect(),
    };
    let runs = filter.statuses.iter().flat_map(|status| urgencies.iter().map(move |urgency| (status, urgency)));
    let mut query = Statement::new(format!("select {} from (", notification_columns::<D>()));
    for (run, (status, urgency)) in runs.enumerate() {
        query.push(if run == 0 { "" } else { " union all " });
        // In SQLite a part of a compound select takes an order and a limit only within a select of its own.
        query.push("select * from (select s.* from notification_state s");
        push_conditions(&mut query, scope, user, filter, now);
        query.push(" and s.status = ").push_bind(status.as_str());
        if let Some(urgency) = urgency {
            query.push(" and s.urgency = ").push_bind(*urgency);
            push_moments(&mut query, filter);
        }
        if let Some(after) = filter.after {
            query.push(" and (s.urgency, s.created_at, s.notification_id) < (").push_bind(after.urgency);
            query.push(", ").push_bind(after.created_at).push(", ").push_bind(after.id.0).push(")");
        }
        query.push(ORDER).push_bind(rows).push(format!(") run{run}"));
    }
    query.push(") s join platform_notifications n on n.id = s.notification_id");
    query.push(ORDER).push_bind(i64::from(filter.limit));
    query.push(" offset ").push_bind(filter.offset.cast_signed());
    query
}

/// The urgencies of a filter by name, if it has a priority, or a moment that is to bound the walk over the index.
fn urgencies(filter: &FeedFilter) -> Option<Vec<i16>> {
    let all = &Priority::ALL[..];
    let named = if filter.priorities.is_empty() { all } else { &filter.priorities };
    let is_bounded = named.len() < all.len() || filter.since.is_some() || filter.until.is_some();
    is_bounded.then(|| named.iter().map(|priority| priority.urgency()).collect())
}

fn push_moments(query: &mut Statement<'_>, filter: &FeedFilter) {
    if let Some(since) = filter.since {
        query.push(" and s.created_at >= ").push_bind(since);
    }
    if let Some(until) = filter.until {
        query.push(" and s.created_at <= ").push_bind(until);
    }
}

/// Everything of a filter but status, priority, moment and place.
fn push_conditions<'q>(
    query: &mut Statement<'q>,
    scope: &'q AccessScope,
    user: &'q UserId,
    filter: &'q FeedFilter,
    now: Timestamp,
) {
    push_owner(query, scope.app.as_ref().or(filter.app.as_ref()), user);
    // An app that asks for another's notifications gets none.
    if let (Some(own), Some(asked)) = (&scope.app, &filter.app)
        && own != asked
    {
        query.push(" and 1 = 0");
    }
    if let Some(notification_type) = &filter.notification_type {
        query.push(
            " and exists (select 1 from platform_notifications n where n.id = s.notification_id \
             and n.notification_type = ",
        );
        query.push_bind(notification_type).push(")");
    }
    push_not_expired(query, now);
}

fn push_owner<'q>(query: &mut Statement<'q>, app: Option<&'q AppId>, user: &'q UserId) {
    query.push(" where s.user_id = ").push_bind(user.as_str());
    if let Some(app) = app {
        query.push(" and s.app_id = ").push_bind(app.as_str());
    }
}

/// Leaves out what is past its expiry, even before the worker has expired it.
fn push_not_expired(query: &mut Statement<'_>, now: Timestamp) {
    query.push(" and (s.expires_at is null or s.status in ('dismissed', 'expired') or s.expires_at > ");
    query.push_bind(now).push(")");
}
