//! Notifications and feeds.

use std::{sync::Arc, time::Duration};

use oriva_hub::store::{
    AccessScope, Appended, Change, ChangeError, Content, Create, CreateBatch, Delete, DeliveryReceipt,
    DuplicateExternalId, Expire, FeedFilter, FeedPosition, KeyedOutcome, Lookup, NewNotification, NotificationResult,
    Operation, Origin, Priority, Progress, ReadAll, Status, Store, Submission, UnreadCount, Validity,
};
use oriva_hub_actors::model::{AppId, JsonObject, NotificationId, Timestamp, UserId};
use sqlx_pg::{Connection as _, Executor as _, PgConnection};

use super::{app_id, store_with};
use crate::{harness::Backend, on_both_stores};

on_both_stores!(
    operations_of_one_transaction_see_each_other,
    a_limit_that_is_reached_leaves_more_to_do,
    an_external_id_is_one_notification_of_its_app,
    a_feed_is_urgent_first_and_goes_on_after_a_notification,
    nobody_reads_or_changes_beyond_their_scope,
    a_past_moment_counts_as_expired_before_the_row_says_so,
    a_delivery_is_noted_once,
);

fn alice() -> UserId {
    UserId::parse("alice").unwrap()
}

fn new(external_id: Option<&str>, priority: Priority) -> NewNotification {
    let content = Content {
        external_id: external_id.map(str::to_owned),
        notification_type: "general".to_owned(),
        title: "t".to_owned(),
        body: "b".to_owned(),
        priority,
        action_url: None,
        action_label: None,
        image_url: None,
        icon_url: None,
        context_data: JsonObject::empty(),
        expires_at: None,
    };
    NewNotification { id: NotificationId::generate(), user_id: alice(), content: Arc::new(content) }
}

fn anybody() -> AccessScope {
    AccessScope { user: None, app: None }
}

fn change(id: NotificationId, to: Status) -> Change {
    let metadata = JsonObject::empty();
    Change { id, scope: anybody(), to, dismissed_from: Some("app".to_owned()), click_action: None, metadata }
}

fn read_all(limit: u32) -> ReadAll {
    ReadAll { user: alice(), app: None, before: None, limit }
}

fn submission(app: &str, operation: impl Operation) -> Submission {
    Submission::new(&app_id(app), Origin::hub(), operation)
}

async fn write<O: Operation>(store: &Arc<dyn Store>, app: &str, operation: O) -> O::Outcome {
    let appended = store.append(&[submission(app, operation)]).await.unwrap().pop().unwrap();
    O::outcome(appended.outcome).unwrap()
}

async fn create(store: &Arc<dyn Store>, app: &str, count: usize) -> Vec<NotificationId> {
    let items: Vec<_> = (0..count).map(|_| Ok(new(None, Priority::Normal))).collect();
    let ids = items.iter().flatten().map(|new: &NewNotification| new.id).collect();
    write(store, app, CreateBatch { from_platform: false, items }).await;
    ids
}

async fn status(store: &Arc<dyn Store>, id: NotificationId) -> Option<Status> {
    match store.notification(&anybody(), id).await.unwrap() {
        Lookup::Found(notification) => Some(notification.state.status),
        Lookup::NotFound | Lookup::NotInScope => None,
    }
}

/// Types and offsets of the events of submissions.
fn events(appended: &[Appended]) -> Vec<(String, u64)> {
    let events = appended.iter().flat_map(|one| &one.events);
    events.map(|event| (event.full_type().to_owned(), event.event().offsets.app)).collect()
}

async fn operations_of_one_transaction_see_each_other(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    let ids = create(&store, "a", 3).await;
    let appended = store
        .append(&[
            submission("a", read_all(10)),
            submission("a", Delete { id: ids[1], owner: app_id("a") }),
            submission("a", change(ids[0], Status::Dismissed)),
            submission("a", change(ids[0], Status::Dismissed)),
            submission("a", Delete { id: ids[1], owner: app_id("a") }),
        ])
        .await
        .unwrap();
    // A change comes before a deletion, and both before a read-all, whatever their order in the batch.
    let told = [("notification.read", 6), ("notification.deleted", 5), ("notification.dismissed", 4)];
    assert_eq!(events(&appended), told.map(|(name, offset)| (name.to_owned(), offset)));
    let outcomes: Vec<_> = appended.into_iter().map(|one| one.outcome).collect();
    let progress = ReadAll::outcome(outcomes[0].clone()).unwrap();
    assert_eq!(progress, Progress { changed: 1, is_complete: true });
    assert_eq!(Delete::outcome(outcomes[1].clone()).unwrap(), Ok(()));
    assert_eq!(Change::outcome(outcomes[2].clone()).unwrap().unwrap().state.status, Status::Dismissed);
    assert!(Change::outcome(outcomes[3].clone()).unwrap().is_ok(), "the same again changes nothing");
    assert_eq!(Delete::outcome(outcomes[4].clone()).unwrap(), Err(ChangeError::NotFound));
    let mut statuses = Vec::new();
    for id in ids {
        statuses.push(status(&store, id).await);
    }
    assert_eq!(statuses, [Some(Status::Dismissed), None, Some(Status::Read)]);
}

async fn a_limit_that_is_reached_leaves_more_to_do(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    let ids = create(&store, "a", 5).await;
    // It may select any two, and says that more may be left.
    let appended =
        store.append(&[submission("a", read_all(5)), submission("a", change(ids[0], Status::Dismissed))]).await;
    let outcome = appended.unwrap().remove(0).outcome;
    assert_eq!(ReadAll::outcome(outcome).unwrap(), Progress { changed: 4, is_complete: false });
    assert_eq!(write(&store, "a", read_all(5)).await, Progress { changed: 0, is_complete: true });
    create(&store, "a", 3).await;
    assert_eq!(write(&store, "a", read_all(2)).await, Progress { changed: 2, is_complete: false });
    assert_eq!(write(&store, "a", read_all(2)).await, Progress { changed: 1, is_complete: true });
}

async fn an_external_id_is_one_notification_of_its_app(backend: Backend) {
    let (_database, store) = store_with(backend, &["a", "b"]).await;
    let create = || Create { from_platform: false, notification: new(Some("x"), Priority::Normal) };
    let Ok(KeyedOutcome::Done(receipt)) = write(&store, "a", create()).await else { panic!("it is free") };
    let owner = receipt.notification_id;
    assert_eq!(write(&store, "a", create()).await, Err(DuplicateExternalId(owner)));
    assert!(write(&store, "b", create()).await.is_ok(), "another app's is another");
    let items = ["y", "x", "y"].map(|id| Ok(new(Some(id), Priority::Normal)));
    let batch = CreateBatch { from_platform: false, items: items.into() };
    let appended = store.append(&[submission("a", batch)]).await.unwrap().pop().unwrap();
    assert_eq!(appended.events.len(), 1);
    let Some(KeyedOutcome::Done(receipts)) = CreateBatch::outcome(appended.outcome) else { panic!("it takes no key") };
    let [NotificationResult::Created(first), NotificationResult::Rejected(second), NotificationResult::Rejected(third)] =
        &receipts.notifications[..]
    else {
        panic!("{receipts:?}")
    };
    assert_eq!(second.notification_id, Some(owner));
    assert_eq!(third.notification_id, Some(first.notification_id));
}

fn filter(limit: u32) -> FeedFilter {
    FeedFilter {
        statuses: Status::SHOWN.to_vec(),
        app: None,
        notification_type: None,
        priorities: Vec::new(),
        since: None,
        until: None,
        limit,
        offset: 0,
        after: None,
    }
}

async fn a_feed_is_urgent_first_and_goes_on_after_a_notification(backend: Backend) {
    let (_database, store) = store_with(backend, &["a", "b"]).await;
    let priorities = [Priority::Low, Priority::Urgent, Priority::Normal, Priority::Urgent];
    for (app, priority) in ["a", "a", "b", "b"].into_iter().zip(priorities) {
        write(&store, app, Create { from_platform: false, notification: new(None, priority) }).await.unwrap();
    }
    let now = Timestamp::now();
    let all = store.feed(&anybody(), &alice(), &filter(10), now, None).await.unwrap();
    let order: Vec<_> = all.notifications.iter().map(|one| (one.app_id.as_str(), one.content.priority)).collect();
    let expected = [("b", Priority::Urgent), ("a", Priority::Urgent), ("b", Priority::Normal), ("a", Priority::Low)];
    assert_eq!((order, all.total), (expected.to_vec(), 4));
    let last = &all.notifications[1];
    let after =
        FeedPosition { urgency: last.content.priority.urgency(), created_at: last.state.created_at, id: last.id };
    let rest =
        store.feed(&anybody(), &alice(), &FeedFilter { after: Some(after), ..filter(10) }, now, None).await.unwrap();
    let ids: Vec<_> = rest.notifications.iter().map(|one| one.id).collect();
    assert_eq!(ids, [all.notifications[2].id, all.notifications[3].id]);
    let of_b = FeedFilter { app: Some(app_id("b")), ..filter(10) };
    assert_eq!(store.feed(&anybody(), &alice(), &of_b, now, None).await.unwrap().total, 2);
    let read = FeedFilter { statuses: vec![Status::Read], ..filter(10) };
    assert_eq!(store.feed(&anybody(), &alice(), &read, now, None).await.unwrap().total, 0);
}

async fn nobody_reads_or_changes_beyond_their_scope(backend: Backend) {
    let (_database, store) = store_with(backend, &["a", "b"]).await;
    let id = create(&store, "a", 1).await[0];
    create(&store, "b", 2).await;
    let of_b = AccessScope { user: None, app: Some(app_id("b")) };
    let bob = AccessScope { user: Some(UserId::parse("bob").unwrap()), app: None };
    for scope in [&of_b, &bob] {
        assert!(matches!(store.notification(scope, id).await.unwrap(), Lookup::NotInScope));
        let foreign = Change { scope: scope.clone(), ..change(id, Status::Read) };
        assert_eq!(write(&store, "b", foreign).await.unwrap_err(), ChangeError::NotInScope);
    }
    let stolen = write(&store, "b", Delete { id, owner: app_id("b") }).await;
    assert_eq!(stolen, Err(ChangeError::NotInScope));
    assert!(matches!(store.notification(&anybody(), NotificationId::generate()).await.unwrap(), Lookup::NotFound));
    let now = Timestamp::now();
    assert_eq!(store.feed(&of_b, &alice(), &filter(10), now, None).await.unwrap().total, 2);
    assert_eq!(store.feed(&of_b, &alice(), &filter(10), now, None).await.unwrap().unread.count, 2);
    assert_eq!(store.feed(&anybody(), &alice(), &filter(10), now, None).await.unwrap().unread.count, 3);
    let counts = store.counts(&of_b, &alice(), now).await.unwrap();
    assert_eq!(counts.0.iter().map(|row| (row.app_id.as_str(), row.count)).collect::<Vec<_>>(), [("b", 2)]);
    assert_eq!(status(&store, id).await, Some(Status::Unread));
}

async fn a_past_moment_counts_as_expired_before_the_row_says_so(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    let expires_at = Timestamp::from(Timestamp::now().as_datetime() + Duration::from_secs(60));
    let mut notification = new(None, Priority::Normal);
    Arc::make_mut(&mut notification.content).expires_at = Some(expires_at);
    let id = notification.id;
    write(&store, "a", Create { from_platform: false, notification }).await.unwrap();
    create(&store, "a", 1).await;
    assert_eq!(store.next_expiry().await.unwrap(), Some(expires_at));
    // A count is believed until the first of them expires, or the stream's head is another one.
    let now = Timestamp::now();
    let unread = async |counted: Option<UnreadCount>, now: Timestamp| {
        store.feed(&anybody(), &alice(), &filter(10), now, counted).await.unwrap().unread
    };
    let counted = unread(None, now).await;
    assert_eq!((counted.count, counted.validity.next_expiry), (2, Some(expires_at)));
    let believed = UnreadCount { count: 99, ..counted };
    assert_eq!(unread(Some(believed), now).await, believed);
    assert_eq!(unread(Some(believed), expires_at).await.count, 1);
    let earlier = Validity { head: counted.validity.head - 1, ..counted.validity };
    assert_eq!(unread(Some(UnreadCount { validity: earlier, ..believed }), now).await.count, 2);
    assert_eq!(store.counts(&anybody(), &alice(), now).await.unwrap().1, Some(expires_at));
    let later = Timestamp::from(expires_at.as_datetime() + Duration::from_secs(1));
    assert_eq!(store.counts(&anybody(), &alice(), later).await.unwrap().1, None);
    assert_eq!(store.feed(&anybody(), &alice(), &filter(10), later, None).await.unwrap().unread.count, 1);
    assert_eq!(store.feed(&anybody(), &alice(), &filter(10), later, None).await.unwrap().total, 1);
    let counts = store.counts(&anybody(), &alice(), later).await.unwrap();
    let mut counts: Vec<_> = counts.0.iter().map(|row| (row.status, row.count)).collect();
    counts.sort_unstable();
    assert_eq!(counts, [(Status::Unread, 1), (Status::Expired, 1)]);
    let early = Expire { until: Timestamp::now(), limit: 10 };
    assert_eq!(write(&store, "a", early).await, Progress { changed: 0, is_complete: true });
    // A dismissal in the same transaction wins.
    let expire = || Expire { until: later, limit: 10 };
    let appended =
        store.append(&[submission("a", expire()), submission("a", change(id, Status::Dismissed))]).await.unwrap();
    assert_eq!(events(&appended).len(), 1);
    assert_eq!(status(&store, id).await, Some(Status::Dismissed));
    assert_eq!(store.next_expiry().await.unwrap(), None);
}

async fn a_delivery_is_noted_once(backend: Backend) {
    let (_database, store) = store_with(backend, &["a", "b"]).await;
    let id = create(&store, "a", 1).await[0];
    let receipt = |app: AppId, at| DeliveryReceipt { id, app_id: app, user_id: alice(), at };
    let first = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
    store.record_receipts(&[receipt(app_id("b"), first)]).await.unwrap();
    let delivered_at = async || match store.notification(&anybody(), id).await.unwrap() {
        Lookup::Found(notification) => notification.state.delivered_at,
        other => panic!("{other:?}"),
    };
    assert_eq!(delivered_at().await, None, "another app's receipt is not this one's");
    store.record_receipts(&[receipt(app_id("a"), first)]).await.unwrap();
    store.record_receipts(&[receipt(app_id("a"), Timestamp::now())]).await.unwrap();
    assert_eq!(delivered_at().await, Some(first));
}

/// A read-all reaches its limit by what it looked at, not by what was left of it when it had the locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_all_that_waited_for_a_dismissal_goes_on() {
    let (database, store) = store_with(Backend::Postgres, &["a"]).await;
    create(&store, "a", 3).await;
    let mut other = PgConnection::connect(&database.owner_url).await.unwrap();
    let mut dismissal = other.begin().await.unwrap();
    // The one that a read-all of one finds first.
    let dismiss = "update notification_state set status = 'dismissed' where notification_id = \
                   (select notification_id from notification_state where user_id = 'alice' and status = 'unread' \
                   and (expires_at is null or expires_at > now()) limit 1)";
    dismissal.execute(dismiss).await.unwrap();
    let reading = tokio::spawn({
        let store = store.clone();
        async move { write(&store, "a", read_all(1)).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    dismissal.commit().await.unwrap();
    let Progress { is_complete, .. } = reading.await.unwrap();
    assert!(!is_complete, "two are still unread");
}
