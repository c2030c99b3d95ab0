//! Rows past retention.

use std::{sync::Arc, time::Duration};

use oriva_hub::store::{ArchiveTable, Export, Range, RetentionClass, Store};
use oriva_hub_actors::model::{StreamKey, Timestamp};

use super::{app_id, event, page, store_with, submission};
use crate::{harness::Backend, on_both_stores};

on_both_stores!(
    old_rows_move_in_steps_and_streams_keep_their_offsets,
    an_export_is_the_same_until_it_is_finished,
    an_event_that_is_owed_to_a_webhook_may_go,
);

fn later() -> Timestamp {
    Timestamp::from(Timestamp::now().as_datetime() + Duration::from_secs(3600))
}

async fn publish(store: &Arc<dyn Store>, count: usize) {
    let events = (0..count).map(|n| event(Some("alice"), &n.to_string())).collect();
    store.append(&[submission("a", events)]).await.unwrap();
}

/// Retires events in steps of `limit`. Returns the number of each step.
async fn retire(store: &Arc<dyn Store>, before: Timestamp, limit: u32) -> Vec<u64> {
    let (mut range, mut steps) = (Range::until(before), Vec::new());
    loop {
        let step = store.retire(RetentionClass::Events, range, limit).await.unwrap();
        let Some(last) = step.last else { return steps };
        range.after = last;
        steps.push(step.done);
    }
}

async fn old_rows_move_in_steps_and_streams_keep_their_offsets(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    publish(&store, 5).await;
    let young = Timestamp::parse("2020-01-01T00:00:00Z").unwrap();
    assert_eq!(store.count_retired(RetentionClass::Events, young).await.unwrap(), 0);
    assert_eq!(retire(&store, young, 10).await, [] as [u64; 0]);
    assert_eq!(store.count_retired(RetentionClass::Events, later()).await.unwrap(), 5);
    assert_eq!(retire(&store, later(), 2).await, [2, 2, 1]);
    assert_eq!(store.count_retired(RetentionClass::Events, later()).await.unwrap(), 0);
    let stream = StreamKey::App(app_id("a"));
    let emptied = page(&store, &stream, 0, 10).await;
    assert_eq!((emptied.events.len(), emptied.head), (0, 5));
    publish(&store, 1).await;
    assert_eq!(page(&store, &stream, 0, 10).await.events[0].event().offsets.app, 6);
}

async fn an_export_is_the_same_until_it_is_finished(backend: Backend) {
    let (_database, store) = store_with(backend, &["a"]).await;
    publish(&store, 3).await;
    assert!(store.begin_export(ArchiveTable::Events, 2).await.unwrap().is_none());
    retire(&store, later(), 10).await;
    let begin = async || store.begin_export(ArchiveTable::Events, 2).await.unwrap();
    let (first, again): (Export, Export) = (begin().await.unwrap(), begin().await.unwrap());
    assert_eq!((first.id, &first.lines, first.rows), (again.id, &again.lines, 2));
    let row: serde_json::Value = serde_json::from_str(first.lines.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&row["app_offset"], &row["user_id"], &row["from_platform"]),
        (&1.into(), &"alice".into(), &false.into())
    );
    assert_eq!(row["event_data"], serde_json::json!({"a": [1, "zwei", null]}));
    assert_eq!(row["ip_address"], "10.1.2.3");
    assert!(Timestamp::parse(row["created_at"].as_str().unwrap()).is_ok(), "{row}");
    for _ in 0..2 {
        store.finish_export(ArchiveTable::Events, first.id).await.unwrap();
    }
    let second = begin().await.unwrap();
    assert_eq!((second.rows, second.id == first.id), (1, false));
    store.finish_export(ArchiveTable::Events, second.id).await.unwrap();
    assert!(begin().await.is_none());
}

async fn an_event_that_is_owed_to_a_webhook_may_go(backend: Backend) {
    use oriva_hub::store::{Lease, NewWebhook};
    let (_database, store) = store_with(backend, &["a"]).await;
    let new = NewWebhook {
        id: oriva_hub_actors::model::WebhookId::generate(),
        app_id: app_id("a"),
        url: "https://x.example/".to_owned(),
        secret: vec![1],
        subscribed_events: vec!["**".to_owned()],
        description: None,
        max_retries: 5,
        retry_backoff_seconds: 1,
        payload: Default::default(),
    };
    let id = store.create_webhook(&new, 10, &super::audit()).await.unwrap().unwrap().id;
    publish(&store, 2).await;
    retire(&store, later(), 10).await;
    let lease = Lease { owner: uuid::Uuid::now_v7(), length: Duration::from_secs(60) };
    let claimed = store.claim_deliveries(id, 10, lease, Timestamp::now()).await.unwrap().unwrap();
    assert!(claimed.deliveries.is_empty(), "nothing is left to deliver");
    assert_eq!(store.pending_deliveries().await.unwrap(), 0, "and it is not tried for ever");
}
