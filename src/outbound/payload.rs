//! The body of a webhook request (contract §7).

use oriva_hub_actors::{
    model::{AppId, Category, Event, EventId, JsonObject, Offset, Timestamp, UserId},
    ports::PayloadForm,
    protocol::PublishedEvent,
};
use serde::Serialize;
use serde_json::{Map, Value};

/// The body, as it is sent and signed.
pub(super) fn body(published: &PublishedEvent, form: PayloadForm) -> String {
    #[derive(Serialize)]
    struct Payload<'a> {
        event_id: EventId,
        event_type: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        event_category: Option<Category>,
        timestamp: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        created_at: Option<Timestamp>,
        app_id: &'a AppId,
        user_id: Option<&'a UserId>,
        entity_type: &'a str,
        entity_id: &'a str,
        offset: Offset,
        #[serde(skip_serializing_if = "Option::is_none")]
        event_data: Option<&'a JsonObject>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<JsonObject>,
    }
    let event = published.event();
    let is_thin = form == PayloadForm::Thin;
    let payload = Payload {
        event_id: event.id,
        event_type: published.full_type(),
        event_category: (!is_thin).then_some(event.category),
        timestamp: event.timestamp,
        created_at: (!is_thin).then_some(event.created_at),
        app_id: &event.app_id,
        user_id: event.user_id.as_ref(),
        entity_type: &event.entity_type,
        entity_id: &event.entity_id,
        offset: event.offsets.app,
        event_data: (!is_thin).then_some(&event.data),
        data: (form == PayloadForm::Full).then(|| data(event)),
    };
    serde_json::to_string(&payload).expect("its fields are strings, numbers and JSON text")
}

/// The event's data, with the entity's fields added. The entity's fields win.
fn data(event: &Event) -> JsonObject {
    let text = |text: &str| Value::String(text.to_owned());
    let mut entity = Map::new();
    entity.insert("entity_type".to_owned(), text(&event.entity_type));
    entity.insert("entity_id".to_owned(), text(&event.entity_id));
    if event.entity_type == "notification" && !event.data.has("notification_id") {
        entity.insert("notification_id".to_owned(), text(&event.entity_id));
    }
    event.data.with_fields(&entity)
}
