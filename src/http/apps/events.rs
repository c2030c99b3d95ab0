//! `/apps/{app_id}/events`: publish, publish a batch, query (contract §4).

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web::Data};
use oriva_hub_actors::model::{
    AppId, Category, Event, EventId, EventType, Invalid, JsonObject, Offset, Timestamp, UserId,
};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{
    http::{
        Problem,
        auth::AppKey,
        body::{BatchFaults, Body, Fields, text, visible_text},
        idempotency,
        openapi::{
            answers::{Checked, Idempotent, Limited, WithBody},
            parameters::{IdempotencyKey, OfApp},
            requests::{self, EventBatch, EventQuery},
        },
        query::{self, Parameters},
        rate_limit::{Publish, Read},
    },
    hub::{Hub, MAX_BATCH},
    store::{App, BatchItem, EventFilter, EventPosition, EventReceipt, EventReceipts, FaultyField, NewEvent},
};

const DEFAULT_LIMIT: u64 = 100;
const MAX_LIMIT: u64 = 500;

/// Publishes one event.
///
/// When the answer arrives, the event is stored, and will reach every matching socket and webhook.
#[utoipa::path(
    post,
    path = "/api/v1/apps/{app_id}/events",
    operation_id = "publishEvent",
    tag = "Events",
    params(OfApp, IdempotencyKey),
    request_body = requests::EventInput,
    responses(
        (status = 200, description = "The event was published", body = EventReceipt, headers(("Idempotency-Replayed" = String, description = "`true` if this is the answer of an earlier request"))),
        Limited,
        WithBody,
        Idempotent
    ),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("publish"))),
)]
pub async fn publish(
    app: AppKey<Publish>,
    hub: Data<Hub>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let key = idempotency::from_request(&request)?;
    let bytes = body.json().await?;
    let event = new_event(Fields::parse(&bytes)?, &app.holder().app).map_err(Problem::invalid)?;
    let idempotency = key.map(|key| key(&bytes));
    let written = hub.publish(app.holder(), event, app.origin(&request), idempotency).await?;
    Ok(idempotency::answer(StatusCode::OK, &written).json(written.result))
}

/// Publishes up to 1,000 events.
///
/// All valid events are stored together. An invalid one gets its error in its place of the answer. A batch counts as
/// many requests as it has events.
#[utoipa::path(
    post,
    path = "/api/v1/apps/{app_id}/events/batch",
    operation_id = "publishEvents",
    tag = "Events",
    params(OfApp, IdempotencyKey),
    request_body = EventBatch,
    responses(
        (status = 200, description = "One result for each event, in the order of the request", body = EventReceipts, headers(("Idempotency-Replayed" = String, description = "`true` if this is the answer of an earlier request"))),
        Limited,
        WithBody,
        Idempotent
    ),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("publish"))),
)]
pub async fn publish_batch(
    app: AppKey<Publish>,
    hub: Data<Hub>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let key = idempotency::from_request(&request)?;
    let bytes = body.json().await?;
    let mut fields = Fields::parse(&bytes)?;
    let items = fields.batch("events", MAX_BATCH).unwrap_or_default();
    fields.finish().map_err(Problem::invalid)?;
    let more = u32::try_from(items.len().saturating_sub(1)).unwrap_or(u32::MAX);
    app.consume_more(&request, &hub, more).await?;
    let mut faults = BatchFaults::default();
    let items = items.into_iter().map(|item| batch_item(item, &app.holder().app, &mut faults)).collect();
    let idempotency = key.map(|key| key(&bytes));
    let written = hub.publish_batch(app.holder(), items, app.origin(&request), idempotency).await?;
    Ok(idempotency::answer(StatusCode::OK, &written).json(written.result))
}

/// Lists the app's events, newest first.
///
/// A page holds at most `limit` events and about 4 MiB of `event_data`. Where `next_cursor` is not null there may be more.
#[utoipa::path(
    get,
    path = "/api/v1/apps/{app_id}/events",
    operation_id = "listEvents",
    tag = "Events",
    params(OfApp, EventQuery),
    responses((status = 200, description = "A page of events", body = Events), Limited, Checked),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("read"))),
)]
pub async fn query(app: AppKey<Read>, hub: Data<Hub>, parameters: Parameters) -> Result<HttpResponse, Problem> {
    let filter = event_filter(parameters).map_err(Problem::invalid)?;
    let listing = hub.events(app.holder(), &filter).await?;
    let events: Vec<EventView<'_>> =
        listing.page.events.iter().map(|event| EventView::from_event(event.event())).collect();
    let last = listing.page.events.last().filter(|_| listing.page.is_full);
    let next_cursor = last.map(|last| cursor_after(EventPosition::from_event(last.event())));
    Ok(HttpResponse::Ok().json(Events {
        events,
        total: listing.total,
        total_is_capped: listing.total_is_capped,
        limit: filter.limit,
        offset: filter.offset,
        has_more: next_cursor.is_some(),
        next_cursor,
    }))
}

/// A page of events.
#[derive(Serialize, ToSchema)]
struct Events<'a> {
    events: Vec<EventView<'a>>,
    total: u64,
    /// `true` if there are more than `total`.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    total_is_capped: bool,
    limit: u32,
    offset: u64,
    /// Whether there may be a next page.
    has_more: bool,
    next_cursor: Option<String>,
}

/// An event as REST shows it: with its bare type, and its offset in the app's stream.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
struct EventView<'a> {
    event_id: EventId,
    app_id: &'a AppId,
    user_id: Option<&'a UserId>,
    event_category: Category,
    event_type: &'a EventType,
    entity_type: &'a str,
    entity_id: &'a str,
    event_data: &'a JsonObject,
    timestamp: Timestamp,
    created_at: Timestamp,
    /// The event's offset in the app's stream.
    #[schema(value_type = u64)]
    offset: Offset,
}

impl<'a> EventView<'a> {
    fn from_event(event: &'a Event) -> Self {
        Self {
            event_id: event.id,
            app_id: &event.app_id,
            user_id: event.user_id.as_ref(),
            event_category: event.category,
            event_type: &event.event_type,
            entity_type: &event.entity_type,
            entity_id: &event.entity_id,
            event_data: &event.data,
            timestamp: event.timestamp,
            created_at: event.created_at,
            offset: event.offsets.app,
        }
    }
}

fn new_event(mut fields: Fields<'_>, app: &App) -> Result<NewEvent, Vec<FaultyField>> {
    let audience = fields.optional("audience", |text| match text {
        "all" => Ok(()),
        _ => Err(Invalid("must be all, or absent".to_owned())),
    });
    let user_id = match audience {
        None if fields.is_absent("user_id") => {
            fields.fault("user_id", "is required, unless audience is all");
            None
        }
        None => fields.optional("user_id", UserId::parse).map(Some),
        Some(()) => {
            if fields.take("user_id").is_some() {
                fields.fault("user_id", "must be absent where audience is all");
            }
            Some(None)
        }
    };
    let category = fields.required("event_category", Category::parse);
    let event_type = fields.required("event_type", |text| EventType::parse(text, category.unwrap_or(Category::User)));
    let entity_type = fields.required("entity_type", visible_text(1..=100));
    let entity_id = fields.required("entity_id", visible_text(1..=255));
    let data = fields.object("event_data");
    fields.finish()?;
    let (Some(user_id), Some(category), Some(event_type), Some(entity_type), Some(entity_id)) =
        (user_id, category, event_type, entity_type, entity_id)
    else {
        // A fault was noted for each of them that is missing.
        return Err(Vec::new());
    };
    Ok(NewEvent {
        id: EventId::generate(),
        app_id: app.id.clone(),
        from_platform: app.is_platform,
        user_id,
        category,
        event_type,
        entity_type,
        entity_id,
        data: data.unwrap_or_else(JsonObject::empty),
        timestamp: Timestamp::now(),
    })
}

fn batch_item(item: &RawValue, app: &App, faults: &mut BatchFaults) -> BatchItem<NewEvent> {
    let event = match Fields::of_item(item) {
        Some(fields) => new_event(fields, app),
        None => Err(vec![FaultyField::new("events", "must be objects")]),
    };
    event.map_err(|found| faults.reject(found))
}

fn event_filter(parameters: Parameters) -> Result<EventFilter, Vec<FaultyField>> {
    let (mut fields, _) = query::fields(parameters, []);
    let (limit, offset) = query::window(&mut fields, DEFAULT_LIMIT, MAX_LIMIT);
    let filter = EventFilter {
        category: fields.optional("event_category", Category::parse),
        event_type: fields.optional("event_type", text(1..=128)),
        user_id: fields.optional("user_id", UserId::parse).map(|user| user.as_str().to_owned()),
        entity_id: fields.optional("entity_id", text(1..=255)),
        start: fields.optional("start_date", Timestamp::parse),
        end: fields.optional("end_date", Timestamp::parse),
        limit,
        offset,
        before: query::cursor(&mut fields, offset, parse_position),
    };
    fields.finish()?;
    Ok(filter)
}

fn cursor_after(EventPosition { app_offset, user_offset, created_at }: EventPosition) -> String {
    query::encode(&format!("{app_offset}:{}:{}", user_offset.unwrap_or(0), created_at.unix_ms()))
}

fn parse_position(text: &str) -> Option<EventPosition> {
    let mut parts = text.split(':').map(|part| part.parse::<i64>().ok().filter(|number| *number >= 0));
    let (app, user, created_at) = (parts.next()??, parts.next()??, parts.next()??);
    let created_at = query::moment(created_at)?;
    let offsets = (app.unsigned_abs(), Some(user.unsigned_abs()).filter(|user| *user > 0));
    parts.next().is_none().then_some(EventPosition { app_offset: offsets.0, user_offset: offsets.1, created_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> App {
        App {
            id: AppId::parse("a").unwrap(),
            name: "A".to_owned(),
            icon_url: None,
            is_active: true,
            is_platform: false,
            limits: Default::default(),
            created_at: Timestamp::now(),
            updated_at: Timestamp::now(),
        }
    }

    #[test]
    fn every_faulty_field_is_named() {
        let body = serde_json::json!({
            "user_id": 7, "event_category": "party", "event_type": "Bad Type", "entity_id": "", "event_data": [],
            "evnt_data": {}, "entity_type": "x\u{0}"
        });
        let body = body.to_string();
        let faults = new_event(Fields::parse(body.as_bytes()).unwrap(), &app()).unwrap_err();
        let mut names: Vec<_> = faults.iter().map(|field| field.field.as_str()).collect();
        names.sort_unstable();
        let expected =
            ["entity_id", "entity_type", "event_category", "event_data", "event_type", "evnt_data", "user_id"];
        assert_eq!(names, expected);
    }
}
