//! Webhooks and the queue of their deliveries.

use std::{sync::Arc, time::Duration};

use oriva_hub::store::{DeliveryFilter, DeliveryStatus, Lease, NewWebhook, Store, WebhookChange};
use oriva_hub_actors::{
    model::{OwnedWebhook, Timestamp, WebhookId},
    ports::{Attempt, Backoff, Delivery, Report, Verdict},
};
use uuid::Uuid;

use super::{app_id, audit, event, store_with, submission};
use crate::{
    harness::{Backend, eventually},
    on_both_stores,
};

on_both_stores!(
    events_are_queued_for_webhooks_that_subscribe,
    a_claim_is_one_nodes_until_it_is_released,
    a_failure_is_due_again_and_a_success_is_not,
    a_webhook_that_is_gone_keeps_what_it_is_owed,
    a_recovery_queues_what_was_never_delivered,
    a_webhook_goes_with_its_deliveries,
);

const FAR: Duration = Duration::from_secs(3600);

async fn webhook(store: &Arc<dyn Store>, app: &str, pattern: &str) -> WebhookId {
    let new = NewWebhook {
        id: WebhookId::generate(),
        app_id: app_id(app),
        url: "https://x.example/".to_owned(),
        secret: vec![1, 2, 3],
        subscribed_events: vec![pattern.to_owned()],
        description: None,
        max_retries: 5,
        retry_backoff_seconds: 1,
        payload: Default::default(),
    };
    let made = store.create_webhook(&new, 10, &audit()).await.unwrap().unwrap();
    assert_eq!((made.subscribed_events, made.secret), (new.subscribed_events, new.secret));
    made.id
}

async fn publish(store: &Arc<dyn Store>, app: &str, count: usize) -> Vec<WebhookId> {
    let events = (0..count).map(|n| event(Some("alice"), &n.to_string())).collect();
    store
        .append(&[submission(app, events)])
        .await
        .unwrap()
        .remove(0)
        .enqueued_for
        .into_iter()
        .map(|webhook| webhook.id)
        .collect()
}

async fn claim(store: &Arc<dyn Store>, id: WebhookId, owner: Uuid, length: Duration) -> Vec<Delivery> {
    // The database's moments are finer than ours.
    let now = Timestamp::from_unix_ms(Timestamp::now().unix_ms() + 1);
    let claimed = store.claim_deliveries(id, 100, Lease { owner, length }, now).await.unwrap();
    let deliveries = claimed.into_iter().flat_map(|claimed| claimed.deliveries);
    deliveries.map(|(id, attempt, event)| Delivery { id, attempt, event }).collect()
}

fn attempt(delivery: &Delivery, verdict: Verdict) -> Attempt {
    let report = Report {
        verdict,
        status_code: Some(500),
        response_time: Duration::from_millis(7),
        response_body: Some("no".to_owned()),
        response_headers: Some(r#"{"a":"b"}"#.to_owned()),
        error: None,
        payload: r#"{"x":1}"#.to_owned(),
    };
    Attempt::judge(delivery.clone(), report, Backoff { first: Duration::from_secs(60), retries: 5 }, 0.5)
}

async fn events_are_queued_for_webhooks_that_subscribe(backend: Backend) {
    let (_database, store) = store_with(backend, &["a", "b"]).await;
    let all = webhook(&store, "a", "**").await;
    webhook(&store, "a", "user.**").await;
    let of_b = webhook(&store, "b", "notification.created").await;
    assert_eq!(publish(&store, "a", 2).await, [all, all]);
    assert_eq!(publish(&store, "b", 1).await, [of_b]);
    assert_eq!(store.pending_deliveries().await.unwrap(), 3);
    assert!(store.oldest_due().await.unwrap().is_some());
    // Another process changes the subscription: the next transaction uses the new one.
    let change = WebhookChange { subscribed_events: Some(vec!["user.**".to_owned()]), ..WebhookChange::default() };
    store.update_webhook(&app_id("b"), of_b, &change, &audit()).await.unwrap().unwrap();
    assert_eq!(publish(&store, "b", 1).await, []);
    assert!(store.webhook(&app_id("a"), of_b).await.unwrap().is_none(), "another app's");
    let off = WebhookChange { is_active: Some(false), ..WebhookChange::default() };
    store.update_webhook(&app_id("a"), all, &off, &audit()).await.unwrap().unwrap();
    assert_eq!(publish(&store, "a", 1).await, []);
    assert!(claim(&store, all, Uuid::now_v7(), FAR).await.is_empty(), "it is not active");
    assert_eq!(store.webhooks_with_work(None, 10).await.unwrap(), [OwnedWebhook { app: app_id("b"), id: of_b }]);
}

async fn a_claim_is_one_nodes_until_it_is_released(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    let id = webhook(&store, "a", "**").await;
    publish(&store, "a", 3).await;
    let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
    let claimed = claim(&store, id, one, FAR).await;
    let offsets: Vec<_> = claimed.iter().map(|delivery| delivery.event.event().offsets.app).collect();
    assert_eq!(offsets, [1, 2, 3]);
    assert!(claim(&store, id, two, FAR).await.is_empty());
    let ids: Vec<_> = claimed.iter().map(|delivery| delivery.id).collect();
    store.release_deliveries(id, two, &ids).await.unwrap();
    assert!(claim(&store, id, two, FAR).await.is_empty(), "another node cannot release them");
    store.release_deliveries(id, one, &ids[..1]).await.unwrap();
    let again = claim(&store, id, two, Duration::ZERO).await;
    assert_eq!(again.iter().map(|delivery| (delivery.id, delivery.attempt)).collect::<Vec<_>>(), [(ids[0], 1)]);
    // It ran out at once; the clock has to say so.
    let mut freed = Vec::new();
    eventually("the lease is free", async || {
        freed = store.free_leases().await.unwrap();
        !freed.is_empty()
    })
    .await;
    assert_eq!(freed, [OwnedWebhook { app: app_id("a"), id }]);
    assert_eq!(claim(&store, id, one, FAR).await.len(), 1);
}

async fn a_failure_is_due_again_and_a_success_is_not(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    let id = webhook(&store, "a", "**").await;
    publish(&store, "a", 2).await;
    let owner = Uuid::now_v7();
    let claimed = claim(&store, id, owner, FAR).await;
    let attempts =
        [attempt(&claimed[0], Verdict::Delivered), attempt(&claimed[1], Verdict::Failed { retry_after: None })];
    let now = Timestamp::now();
    for _ in 0..2 {
        let after = store.record_attempts(id, owner, &attempts, 100, now).await.unwrap().unwrap();
        assert_eq!((after.failures, after.disabled), (1, None), "once, however often it is recorded");
    }
    let filter = |status| DeliveryFilter { status, event_type: None, since: None, limit: 10, after: None };
    let list = async |status| store.deliveries(&app_id("a"), id, &filter(status)).await.unwrap();
    let done = list(Some(DeliveryStatus::Succeeded)).await;
    assert_eq!((done.len(), done[0].id, done[0].attempts), (1, claimed[0].id, 1));
    let log = &done[0].log[0];
    assert_eq!((log.status_code, log.response_time_ms, log.response_body.as_deref()), (Some(500), Some(7), Some("no")));
    let waiting = list(Some(DeliveryStatus::Pending)).await;
    assert!(waiting[0].next_attempt_at > now);
    assert!(claim(&store, id, owner, FAR).await.is_empty(), "it is not due yet");
    let due = store.redeliver(&app_id("a"), id, claimed[0].id, &audit()).await.unwrap().unwrap();
    assert_eq!((due.status, due.attempts), (DeliveryStatus::Pending, 0));
    assert_eq!(claim(&store, id, owner, FAR).await.len(), 1);
    let row = store.webhook(&app_id("a"), id).await.unwrap().unwrap();
    assert_eq!((row.total_deliveries, row.total_failures, row.consecutive_failures), (2, 1, 1));
    store.log_attempt(&row, &attempt(&claimed[0], Verdict::Delivered), now).await.unwrap();
    assert_eq!(list(None).await.len(), 2);
}

async fn a_webhook_that_is_gone_keeps_what_it_is_owed(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    let id = webhook(&store, "a", "**").await;
    publish(&store, "a", 2).await;
    let owner = Uuid::now_v7();
    let claimed = claim(&store, id, owner, FAR).await;
    let gone = [attempt(&claimed[0], Verdict::Gone)];
    let after = store.record_attempts(id, owner, &gone, 100, Timestamp::now()).await.unwrap().unwrap();
    assert!(after.disabled.is_some_and(|reason| reason.contains("410")));
    assert_eq!(publish(&store, "a", 1).await, [], "nothing more is queued for it");
    assert_eq!(store.pending_deliveries().await.unwrap(), 2);
    assert_eq!(store.oldest_due().await.unwrap(), None);
    let on = WebhookChange { is_active: Some(true), ..WebhookChange::default() };
    let row = store.update_webhook(&app_id("a"), id, &on, &audit()).await.unwrap().unwrap();
    assert_eq!((row.disabled_reason, row.consecutive_failures), (None, 0));
    assert_eq!(claim(&store, id, owner, FAR).await.len(), 1);
}

async fn a_recovery_queues_what_was_never_delivered(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    let since = Timestamp::from(Timestamp::now().as_datetime() - Duration::from_secs(60));
    publish(&store, "a", 5).await;
    let id = webhook(&store, "a", "**").await;
    publish(&store, "a", 1).await;
    let owner = Uuid::now_v7();
    let first = claim(&store, id, owner, FAR).await;
    let delivered = [attempt(&first[0], Verdict::Delivered)];
    store.record_attempts(id, owner, &delivered, 100, Timestamp::now()).await.unwrap();
    let started = store.start_recovery(&app_id("a"), id, since, &audit()).await.unwrap().unwrap();
    assert_eq!((started.queued, started.finished_at), (0, None));
    let mut steps = 0;
    while store.advance_recovery(2).await.unwrap().is_some() {
        steps += 1;
    }
    let done = store.recovery(&app_id("a"), id).await.unwrap().unwrap();
    assert_eq!((done.queued, done.finished_at.is_some()), (5, true), "not what was delivered");
    assert!(steps >= 3, "{steps}");
    assert_eq!(claim(&store, id, owner, FAR).await.len(), 5);
}

async fn a_webhook_goes_with_its_deliveries(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    let id = webhook(&store, "a", "**").await;
    publish(&store, "a", 2).await;
    let owner = Uuid::now_v7();
    let claimed = claim(&store, id, owner, FAR).await;
    assert!(store.delete_webhook(&app_id("a"), id, &audit()).await.unwrap());
    assert!(!store.delete_webhook(&app_id("a"), id, &audit()).await.unwrap());
    let late = [attempt(&claimed[0], Verdict::Delivered)];
    assert!(store.record_attempts(id, owner, &late, 100, Timestamp::now()).await.unwrap().is_none());
    assert_eq!(store.pending_deliveries().await.unwrap(), 0);
    assert_eq!(publish(&store, "a", 1).await, []);
    assert!(store.webhook_secrets().await.unwrap().is_empty());
}
