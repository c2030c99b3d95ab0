//! The writing transaction: the SQL between the steps of [`crate::store::batch`]. Few statements however many rows there
//! are, and rows locked in an order that is the same on every node.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use oriva_hub_actors::model::{AppId, NotificationId, Timestamp};
use uuid::Uuid;

use super::{
    dialect::{Commit as _, Dialect, SqlRow as _, SqlStore},
    rows::{RECORD, corrupt_row, record_from_row},
    statement::{Kind, Rows, Statement},
};
use crate::store::{
    Appended, EventStore, NewNotification, NotificationRecord, ReadAll, StoreError, Submission,
    batch::{Answer, Claims, Decided, Insertion, Locked, Numbered, Written},
    ip_text,
};

#[async_trait]
impl<S: SqlStore> EventStore for S {
    async fn append(&self, submissions: &[Submission]) -> Result<Vec<Appended>, StoreError> {
        let now = Timestamp::now();
        if S::APPENDS_AT_ONCE
            && let Some(written) = append_at_once(self, Claims::new(submissions, now)).await?
        {
            return Ok(committed(self, written));
        }
        let mut transaction = self.begin_append().await?;
        let connection = &mut *transaction;
        let claims = claim::<S::Db>(connection, Claims::new(submissions, now)).await?;
        let locked = lock::<S::Db>(connection, claims).await?;
        let decided = Decided::new(locked);
        store_changes::<S::Db>(connection, &decided).await?;
        let written = self.append_events(connection, decided).await?;
        keep_answers::<S::Db>(connection, &written.numbered).await?;
        transaction.commit().await?;
        Ok(committed(self, written))
    }
}

/// What every submission wrote.
fn committed(store: &impl SqlStore, written: Written<'_>) -> Vec<Appended> {
    if let Some(last) = written.numbered.events().last() {
        store.appended(last.published.event().id);
    }
    written.finish()
}

/// Writes a batch that needs nothing before. `None`: it takes the steps.
async fn append_at_once<'a>(store: &impl SqlStore, claims: Claims<'a>) -> Result<Option<Written<'a>>, StoreError> {
    if !claims.need_nothing() {
        return Ok(None);
    }
    let insertions = claims.insertions();
    let mut locked = Locked::new(claims);
    locked.set_inserted(insertions.iter().map(|one| one.new.id).collect(), HashMap::new());
    store.append_at_once(Decided::new(locked), &insertions).await
}

/// Takes every claim, or settles its submission with the answer of the request that has it. Two nodes that take the same
/// claim wait for each other here, so only one of them writes.
async fn claim<'a, D: Dialect>(
    connection: &mut D::Connection,
    mut claims: Claims<'a>,
) -> Result<Claims<'a>, StoreError> {
    let mut rows = Rows::new(&[
        ("app_id", Kind::Text),
        ("key", Kind::Text),
        ("request_hash", Kind::Bytes),
        ("response", Kind::Text),
        ("expires_at", Kind::Moment),
    ]);
    let keys = claims.keys();
    for (_, app, claim) in &keys {
        rows.push([
            app.as_str().into(),
            (&claim.key).into(),
            claim.request_hash[..].into(),
            "".into(),
            claim.expires_at.into(),
        ]);
    }
    let take = format!("insert into idempotency_keys as taken ({}) ", rows.names());
    let after = format!(
        " on conflict (app_id, key) do update \
         set request_hash = excluded.request_hash, response = '', expires_at = excluded.expires_at \
         where taken.expires_at <= {} returning app_id, key",
        D::NOW
    );
    let taken = D::fetch_each(connection, D::with_rows(&take, rows, &after)).await?;
    let taken = taken.iter().map(|row| Ok((row.text(0)?, row.text(1)?))).collect::<Result<HashSet<_>, StoreError>>()?;
    let mut earlier: HashMap<_, Vec<usize>> = HashMap::new();
    let mut wanted = Rows::new(&[("app_id", Kind::Text), ("key", Kind::Text)]);
    for (index, app, claim) in keys {
        if !taken.contains(&(app.to_string(), claim.key.clone())) {
            let of_key = earlier.entry((app.to_string(), claim.key.clone())).or_default();
            if of_key.is_empty() {
                wanted.push([app.as_str().into(), (&claim.key).into()]);
            }
            of_key.push(index);
        }
    }
    let with = "with wanted (app_id, key) as (";
    let after = ") select k.app_id, k.key, k.request_hash, k.response from wanted join idempotency_keys k \
                 on k.app_id = wanted.app_id and k.key = wanted.key";
    for row in D::fetch_each(connection, D::with_rows(with, wanted, after)).await? {
        for index in earlier.remove(&(row.text(0)?, row.text(1)?)).unwrap_or_default() {
            claims.settle(index, &row.bytes(2)?, &row.text(3)?).map_err(unreadable)?;
        }
    }
    // One that is missing was deleted between the two statements.
    if earlier.is_empty() { Ok(claims) } else { Err(StoreError::Contended) }
}

fn unreadable(error: serde_json::Error) -> StoreError {
    StoreError::failed(error)
}

/// Inserts new notifications, and locks those that exist and are to be changed: all that it waits for in the order of
/// their ids, whichever submissions they are for.
async fn lock<'a, D: Dialect>(connection: &mut D::Connection, claims: Claims<'a>) -> Result<Locked<'a>, StoreError> {
    let insertions = claims.insertions();
    let mut locked = Locked::new(claims);
    insert_notifications::<D>(connection, &insertions, &mut locked).await?;
    let mut ids: Vec<Uuid> = locked.claims().target_ids().into_iter().map(|id| id.0).collect();
    for (index, all) in locked.claims().read_alls() {
        let unread = unread_ids::<D>(connection, all, locked.claims().now).await?;
        ids.extend(&unread);
        locked.select(index, unread.into_iter().map(NotificationId).collect());
    }
    ids.sort_unstable();
    ids.dedup();
    for run in D::id_runs(&ids) {
        let mut query = Statement::new(format!("{RECORD} where "));
        D::push_any(&mut query, "s.notification_id", run);
        query.push(" order by s.notification_id").push(D::LOCK_S);
        locked.add_records(records::<D>(connection, query).await?);
    }
    for (index, expire) in locked.claims().expiries() {
        // A notification that another transaction has locked is looked at again in the next run.
        let query = Statement::new(format!(
            "{RECORD} where s.expires_at <= $1 and s.status in ('unread', 'read', 'clicked') \
             order by s.expires_at limit $2{}",
            D::LOCK_S_OR_SKIP
        ));
        let due = records::<D>(connection, query.bind(expire.until).bind(i64::from(expire.limit))).await?;
        locked.select(index, due.iter().map(|record| record.id).collect());
        locked.add_records(due);
    }
    Ok(locked)
}

/// The notifications that are to be marked as read. Not locked yet: what changes before it is, is decided by its new state.
async fn unread_ids<D: Dialect>(
    connection: &mut D::Connection,
    all: &ReadAll,
    now: Timestamp,
) -> Result<Vec<Uuid>, StoreError> {
    let mut query = Statement::new("select notification_id from notification_state where user_id = ");
    query.push_bind(all.user.as_str()).push(" and status = 'unread'");
    if let Some(app) = &all.app {
        query.push(" and app_id = ").push_bind(app.as_str());
    }
    if let Some(before) = all.before {
        query.push(" and created_at < ").push_bind(before);
    }
    query.push(" and (expires_at is null or expires_at > ").push_bind(now);
    query.push(") limit ").push_bind(i64::from(all.limit));
    D::fetch_all(connection, query).await?.iter().map(|row| row.id(0)).collect()
}

async fn records<D: Dialect>(
    connection: &mut D::Connection,
    query: Statement<'_>,
) -> Result<Vec<NotificationRecord>, StoreError> {
    D::fetch_all(connection, query).await?.iter().map(record_from_row).collect()
}

/// Inserts each notification whose external id is free. One whose external id another transaction is just inserting waits
/// here for that transaction's end.
async fn insert_notifications<D: Dialect>(
    connection: &mut D::Connection,
    insertions: &[Insertion<'_>],
    locked: &mut Locked<'_>,
) -> Result<(), StoreError> {
    let now = locked.claims().now;
    let contents = content_rows(insertions.iter(), now);
    let insert = format!("insert into platform_notifications ({}) ", contents.names());
    let after = " on conflict (app_id, external_id) where external_id is not null do nothing returning id";
    let inserted = D::fetch_each(connection, D::with_rows(&insert, contents, after)).await?;
    let inserted = inserted.iter().map(|row| row.id(0).map(NotificationId)).collect::<Result<HashSet<_>, _>>()?;
    let states = state_rows(insertions.iter().filter(|one| inserted.contains(&one.new.id)), now);
    let insert = format!("insert into notification_state ({}) ", states.names());
    D::execute_each(connection, D::with_rows(&insert, states, "")).await?;
    let refused = insertions.iter().filter(|one| !inserted.contains(&one.new.id));
    let owners = owners::<D>(connection, refused.clone()).await?;
    // An owner that is missing was deleted between the two statements.
    for (app, external_id) in refused.filter_map(|one| Some((one.key().0, one.key().1?))) {
        if !owners.contains_key(&(app.clone(), external_id.to_owned())) {
            return Err(StoreError::Contended);
        }
    }
    locked.set_inserted(inserted, owners);
    Ok(())
}

/// The contents of new notifications.
pub(in crate::store) fn content_rows<'a>(
    insertions: impl Iterator<Item = &'a Insertion<'a>>,
    now: Timestamp,
) -> Rows<'a> {
    let mut contents = Rows::new(&[
        ("id", Kind::Id),
        ("app_id", Kind::Text),
        ("user_id", Kind::Text),
        ("external_id", Kind::Text),
        ("title", Kind::Text),
        ("body", Kind::Text),
        ("notification_type", Kind::Text),
        ("priority", Kind::Text),
        ("action_url", Kind::Text),
        ("action_label", Kind::Text),
        ("image_url", Kind::Text),
        ("icon_url", Kind::Text),
        ("context_data", Kind::Json),
        ("expires_at", Kind::Moment),
        ("created_at", Kind::Moment),
        ("updated_at", Kind::Moment),
    ]);
    for Insertion { app_id, new } in insertions {
        let content = &new.content;
        contents.push([
            new.id.0.into(),
            app_id.as_str().into(),
            new.user_id.as_str().into(),
            (&content.external_id).into(),
            (&content.title).into(),
            (&content.body).into(),
            (&content.notification_type).into(),
            content.priority.as_str().into(),
            (&content.action_url).into(),
            (&content.action_label).into(),
            (&content.image_url).into(),
            (&content.icon_url).into(),
            content.context_data.as_str().into(),
            expires_at(new, now).into(),
            now.into(),
            now.into(),
        ]);
    }
    contents
}

/// The first states of new notifications.
pub(in crate::store) fn state_rows<'a>(
    insertions: impl Iterator<Item = &'a Insertion<'a>>,
    now: Timestamp,
) -> Rows<'a> {
    let mut states = Rows::new(&[
        ("id", Kind::Id),
        ("notification_id", Kind::Id),
        ("user_id", Kind::Text),
        ("app_id", Kind::Text),
        ("urgency", Kind::Small),
        ("expires_at", Kind::Moment),
        ("status", Kind::Text),
        ("sent_at", Kind::Moment),
        ("created_at", Kind::Moment),
        ("updated_at", Kind::Moment),
    ]);
    for Insertion { app_id, new } in insertions {
        states.push([
            Uuid::new_v4().into(),
            new.id.0.into(),
            new.user_id.as_str().into(),
            app_id.as_str().into(),
            new.content.priority.urgency().into(),
            expires_at(new, now).into(),
            "unread".into(),
            now.into(),
            now.into(),
            now.into(),
        ]);
    }
    states
}

/// When a new notification expires. It is always later than its creation, even if the moment passed while the request waited.
fn expires_at(new: &NewNotification, now: Timestamp) -> Option<Timestamp> {
    new.content.expires_at.map(|moment| moment.max(Timestamp::from_unix_ms(now.unix_ms() + 1)))
}

/// The notifications that the external ids belong to.
async fn owners<'a, D: Dialect>(
    connection: &mut D::Connection,
    insertions: impl Iterator<Item = &'a Insertion<'a>>,
) -> Result<HashMap<(AppId, String), NotificationId>, StoreError> {
    let mut wanted = Rows::new(&[("app_id", Kind::Text), ("external_id", Kind::Text)]);
    for (app, external_id) in insertions.filter_map(|one| Some((one.key().0, one.key().1?))) {
        wanted.push([app.as_str().into(), external_id.into()]);
    }
    let with = "with wanted (app_id, external_id) as (";
    let after = ") select n.app_id, n.external_id, n.id from wanted join platform_notifications n \
                 on n.app_id = wanted.app_id and n.external_id = wanted.external_id";
    let rows = D::fetch_each(connection, D::with_rows(with, wanted, after)).await?;
    rows.iter()
        .map(|row| {
            let app = AppId::parse(&row.text(0)?).map_err(corrupt_row)?;
            Ok(((app, row.text(1)?), NotificationId(row.id(2)?)))
        })
        .collect()
}

/// Stores the notifications' new states, and deletes those that are to be deleted.
async fn store_changes<D: Dialect>(connection: &mut D::Connection, decided: &Decided<'_>) -> Result<(), StoreError> {
    let mut states = Rows::new(&[
        ("id", Kind::Id),
        ("status", Kind::Text),
        ("read_at", Kind::Moment),
        ("dismissed_at", Kind::Moment),
        ("clicked_at", Kind::Moment),
        ("expired_at", Kind::Moment),
        ("dismissed_from", Kind::Text),
        ("click_action", Kind::Text),
        ("updated_at", Kind::Moment),
    ]);
    for NotificationRecord { id, state, .. } in decided.changed() {
        states.push([
            id.0.into(),
            state.status.as_str().into(),
            state.read_at.into(),
            state.dismissed_at.into(),
            state.clicked_at.into(),
            state.expired_at.into(),
            (&state.dismissed_from).into(),
            (&state.click_action).into(),
            state.updated_at.into(),
        ]);
    }
    let with = format!("with new ({}) as (", states.names());
    let after = ") update notification_state as s set status = new.status, read_at = new.read_at, \
                 dismissed_at = new.dismissed_at, clicked_at = new.clicked_at, expired_at = new.expired_at, \
                 dismissed_from = new.dismissed_from, click_action = new.click_action, updated_at = new.updated_at \
                 from new where s.notification_id = new.id";
    D::execute_each(connection, D::with_rows(&with, states, after)).await?;
    let deleted: Vec<Uuid> = decided.deleted().iter().map(|id| id.0).collect();
    for run in D::id_runs(&deleted) {
        let mut delete = Statement::new("delete from platform_notifications where ");
        D::push_any(&mut delete, "id", run);
        D::execute(connection, delete).await?;
    }
    Ok(())
}

/// One audit row for each notification that was created or changed, without its content.
pub(in crate::store) fn audit_rows<'q>(decided: &'q Decided<'_>) -> Rows<'q> {
    let mut rows = Rows::new(&[
        ("id", Kind::Id),
        ("actor", Kind::Text),
        ("action", Kind::Text),
        ("subject", Kind::Text),
        ("app_id", Kind::Text),
        ("ip_address", Kind::Address),
        ("at", Kind::Moment),
    ]);
    for (event, origin) in decided.audited() {
        rows.push([
            Uuid::now_v7().into(),
            (&origin.actor).into(),
            event.full_type().into(),
            (&event.entity_id).into(),
            event.app_id.as_str().into(),
            ip_text(origin.ip).into(),
            decided.now.into(),
        ]);
    }
    rows
}

/// Keeps the answers beside their claims, and gives up the claims of requests that failed.
async fn keep_answers<D: Dialect>(connection: &mut D::Connection, numbered: &Numbered<'_>) -> Result<(), StoreError> {
    let mut kept = Rows::new(&[("app_id", Kind::Text), ("key", Kind::Text), ("response", Kind::Text)]);
    let mut failed = Rows::new(&[("app_id", Kind::Text), ("key", Kind::Text)]);
    for Answer { app_id, key, answer } in numbered.answers().map_err(unreadable)? {
        match answer {
            Some(answer) => kept.push([app_id.as_str().into(), key.into(), answer.into()]),
            None => failed.push([app_id.as_str().into(), key.into()]),
        }
    }
    let with = "with new (app_id, key, response) as (";
    let after = ") update idempotency_keys as k set response = new.response from new \
                 where k.app_id = new.app_id and k.key = new.key";
    D::execute_each(connection, D::with_rows(with, kept, after)).await?;
    let delete = "delete from idempotency_keys where (app_id, key) in (";
    D::execute_each(connection, D::with_rows(delete, failed, ")")).await.map(drop)
}
