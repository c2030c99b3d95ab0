//! The body of a webhook request (contract §7).

use oriva_hub_actors::{
    model::{AppId, Category, Event, EventId, Timestamp, UserId, parse_json},
    protocol::PublishedEvent,
};
use serde::Serialize;
use serde_json::{Map, Value};

/// The body, as it is sent and signed.
pub(super) fn body(published: &PublishedEvent) -> String {
    #[derive(Serialize)]
    struct Payload<'a> {
        event_id: EventId,
        event_type: &'a str,
        event_category: Category,
        timestamp: Timestamp,
        app_id: &'a AppId,
        user_id: Option<&'a UserId>,
        entity_type: &'a str,
        entity_id: &'a str,
        event_data: &'a Map<String, Value>,
        data: &'a Map<String, Value>,
    }
    let event = published.event();
    let event_data = match parse_json(event.data.as_str().as_bytes()) {
        Ok(Value::Object(data)) => data,
        _ => Map::new(),
    };
    let payload = Payload {
        event_id: event.id,
        event_type: published.full_type(),
        event_category: event.category,
        timestamp: event.timestamp,
        app_id: &event.app_id,
        user_id: event.user_id.as_ref(),
        entity_type: &event.entity_type,
        entity_id: &event.entity_id,
        data: &data(event, event_data.clone()),
        event_data: &event_data,
    };
    serde_json::to_string(&payload).unwrap_or_default()
}

/// The event's data, with the entity's fields added. The entity's fields win.
fn data(event: &Event, mut data: Map<String, Value>) -> Map<String, Value> {
    if event.entity_type == "notification" {
        data.entry("notification_id").or_insert_with(|| Value::String(event.entity_id.clone()));
    }
    data.insert("entity_type".to_owned(), Value::String(event.entity_type.clone()));
    data.insert("entity_id".to_owned(), Value::String(event.entity_id.clone()));
    data
}
