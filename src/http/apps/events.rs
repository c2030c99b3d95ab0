//! `/apps/{app_id}/events`: publish, publish a batch, query (contract §4).

use std::{net::IpAddr, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header,
    web::{Bytes, Data, Query},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use oriva_hub_actors::model::{
    AppId, Category, Event, EventId, EventType, Invalid, JsonObject, Offset, Timestamp, UserId,
};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{
    http::{
        Problem,
        body::{Body, Fields, text},
        caller::{AppKey, Publish, Read},
    },
    hub::{BatchItem, Field, Hub, Idempotency, MAX_BATCH, Written},
    store::{EventFilter, NewEvent},
};

const MAX_DATA_BYTES: usize = 64 * 1024;
const DEFAULT_LIMIT: u64 = 100;
const MAX_LIMIT: u64 = 500;
/// What is kept of a `User-Agent`.
const USER_AGENT_CHARACTERS: usize = 512;

/// Publishes one event.
///
/// # Errors
/// 401, 404, 403, 429, 400, 409, 413, 415, 422, 503.
pub async fn publish(
    app: AppKey<Publish>,
    hub: Data<Hub>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let key = idempotency_key(&request)?;
    let (bytes, map) = body.object().await?;
    let event = new_event(map, &Origin::of(&request)).map_err(Problem::invalid)?;
    let idempotency = key.map(|key| Idempotency { key, request_hash: request_hash(&request, &bytes) });
    Ok(answer(hub.publish(app.holder(), event, idempotency).await?))
}

/// Publishes up to a thousand events; the good ones land together.
///
/// # Errors
/// As [`publish`].
pub async fn publish_batch(
    app: AppKey<Publish>,
    hub: Data<Hub>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let key = idempotency_key(&request)?;
    let (bytes, map) = body.object().await?;
    let mut fields = Fields::new(map);
    let items = match fields.take("events") {
        Some(Value::Array(items)) if (1..=MAX_BATCH).contains(&items.len()) => items,
        _ => {
            fields.fault("events", &format!("must be an array of 1 to {MAX_BATCH} events"));
            Vec::new()
        }
    };
    fields.finish().map_err(Problem::invalid)?;
    let more = u32::try_from(items.len().saturating_sub(1)).unwrap_or(u32::MAX);
    app.spend_more(&request, &hub, more)?;
    let origin = Origin::of(&request);
    let items = items.into_iter().map(|item| batch_item(item, &origin)).collect();
    let idempotency = key.map(|key| Idempotency { key, request_hash: request_hash(&request, &bytes) });
    Ok(answer(hub.publish_batch(app.holder(), items, idempotency).await?))
}

/// Lists the app's events, newest first.
///
/// # Errors
/// 401, 404, 403, 429, 400.
pub async fn query(
    app: AppKey<Read>,
    hub: Data<Hub>,
    parameters: Query<Vec<(String, String)>>,
) -> Result<HttpResponse, Problem> {
    let filter = event_filter(parameters.into_inner()).map_err(Problem::invalid)?;
    let listing = hub.events(app.holder(), &filter).await?;
    let events: Vec<EventView<'_>> = listing.page.events.iter().map(|event| EventView::of(event.event())).collect();
    let is_full = events.len() == filter.limit as usize;
    let next_cursor = events.last().filter(|_| is_full).map(|last| encode_cursor(last.offset));
    Ok(HttpResponse::Ok().json(Events {
        events,
        total: listing.total,
        total_is_capped: listing.total_is_capped,
        limit: filter.limit,
        offset: filter.offset,
        next_cursor,
    }))
}

#[derive(Serialize)]
struct Events<'a> {
    events: Vec<EventView<'a>>,
    total: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    total_is_capped: bool,
    limit: u32,
    offset: u64,
    next_cursor: Option<String>,
}

/// An event as REST shows it: the bare type, and the app stream's offset.
#[derive(Serialize)]
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
    offset: Offset,
}

impl<'a> EventView<'a> {
    fn of(event: &'a Event) -> Self {
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

/// Where a request came from.
struct Origin {
    ip: Option<IpAddr>,
    user_agent: Option<Arc<str>>,
}

impl Origin {
    fn of(request: &HttpRequest) -> Self {
        let user_agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        Self {
            ip: request.peer_addr().map(|address| address.ip()),
            user_agent: user_agent.map(|text| text.chars().take(USER_AGENT_CHARACTERS).collect::<String>().into()),
        }
    }
}

fn new_event(map: Map<String, Value>, origin: &Origin) -> Result<NewEvent, Vec<Field>> {
    let mut fields = Fields::new(map);
    let audience = fields.optional("audience", |text| match text {
        "all" => Ok(()),
        _ => Err(Invalid("must be all, or absent".to_owned())),
    });
    let user_id = match audience {
        None => fields.required("user_id", UserId::parse).map(Some),
        Some(()) => {
            if fields.take("user_id").is_some() {
                fields.fault("user_id", "must be absent where audience is all");
            }
            Some(None)
        }
    };
    let category = fields.required("event_category", Category::parse);
    let event_type = fields.required("event_type", |text| EventType::parse(text, category.unwrap_or(Category::User)));
    let entity_type = fields.required("entity_type", text(1..=100));
    let entity_id = fields.required("entity_id", text(1..=255));
    let data = fields.object("event_data", MAX_DATA_BYTES);
    fields.finish()?;
    let (Some(user_id), Some(category), Some(event_type), Some(entity_type), Some(entity_id)) =
        (user_id, category, event_type, entity_type, entity_id)
    else {
        // Each of them that is missing was noted as a fault.
        return Err(Vec::new());
    };
    Ok(NewEvent {
        id: EventId::generate(),
        user_id,
        category,
        event_type,
        entity_type,
        entity_id,
        data: data.map_or_else(JsonObject::empty, |data| JsonObject::from_map(&data)),
        timestamp: Timestamp::now(),
        ip: origin.ip,
        user_agent: origin.user_agent.clone(),
    })
}

fn batch_item(item: Value, origin: &Origin) -> BatchItem {
    let faults = match item {
        Value::Object(map) => match new_event(map, origin) {
            Ok(event) => return BatchItem::Good(Box::new(event)),
            Err(faults) => faults,
        },
        _ => vec![Field { name: "events".to_owned(), message: "events must be objects".to_owned() }],
    };
    BatchItem::Bad(Problem::invalid(faults).item())
}

fn event_filter(parameters: Vec<(String, String)>) -> Result<EventFilter, Vec<Field>> {
    let mut map = Map::new();
    let mut repeated = Vec::new();
    for (name, value) in parameters {
        if map.insert(name.clone(), Value::String(value)).is_some() {
            repeated.push(name);
        }
    }
    let mut fields = Fields::new(map);
    for name in repeated {
        fields.fault(&name, "must be given once");
    }
    let number = |range: std::ops::RangeInclusive<u64>| {
        move |text: &str| match text.parse::<u64>() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(Invalid(format!("must be a whole number from {} to {}", range.start(), range.end()))),
        }
    };
    let filter = EventFilter {
        category: fields.optional("event_category", Category::parse),
        event_type: fields.optional("event_type", text(1..=128)),
        user_id: fields.optional("user_id", UserId::parse).map(|user| user.as_str().to_owned()),
        entity_id: fields.optional("entity_id", text(1..=255)),
        start: fields.optional("start_date", Timestamp::parse),
        end: fields.optional("end_date", Timestamp::parse),
        limit: u32::try_from(fields.optional("limit", number(1..=MAX_LIMIT)).unwrap_or(DEFAULT_LIMIT)).unwrap_or(1),
        offset: fields.optional("offset", number(0..=i64::MAX.unsigned_abs())).unwrap_or(0),
        before: fields.optional("cursor", decode_cursor),
    };
    if filter.before.is_some() && filter.offset > 0 {
        fields.fault("offset", "does not go with cursor");
    }
    fields.finish()?;
    Ok(filter)
}

/// Opaque to clients; the version lets a later hub read it otherwise.
fn encode_cursor(offset: Offset) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("1:{offset}"))
}

fn decode_cursor(text: &str) -> Result<Offset, Invalid> {
    let invalid = || Invalid("must be the next_cursor of an earlier answer".to_owned());
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
    let text = String::from_utf8(bytes).map_err(|_| invalid())?;
    text.strip_prefix("1:")
        .and_then(|offset| offset.parse::<Offset>().ok())
        .filter(|offset| i64::try_from(*offset).is_ok())
        .ok_or_else(invalid)
}

/// The `Idempotency-Key`, bare or as the structured-field string of the draft.
fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or("").trim();
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if (1..=255).contains(&bare.len()) {
        Ok(Some(bare.to_owned()))
    } else {
        let message = "Idempotency-Key must be 1 to 255 visible ASCII characters".to_owned();
        Err(Problem::invalid(vec![Field { name: "Idempotency-Key".to_owned(), message }]))
    }
}

/// The same body at another route is another request.
fn request_hash(request: &HttpRequest, body: &Bytes) -> [u8; 32] {
    let route = request.match_pattern().unwrap_or_default();
    Sha256::new().chain_update(route).chain_update([0]).chain_update(body).finalize().into()
}

fn answer(written: Written) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response.content_type("application/json");
    if written.replayed {
        response.insert_header(("idempotency-replayed", "true"));
    }
    response.body(written.answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_and_a_made_up_one_does_not() {
        assert_eq!(decode_cursor(&encode_cursor(42)), Ok(42));
        for bad in [
            "",
            "42",
            "!!",
            &BASE64_URL_SAFE_NO_PAD.encode("1:-3"),
            &BASE64_URL_SAFE_NO_PAD.encode("1:99999999999999999999"),
        ] {
            assert!(decode_cursor(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_faulty_field_is_named() {
        let body = serde_json::json!({
            "user_id": 7, "event_category": "party", "event_type": "Bad Type", "entity_id": "", "event_data": [],
            "evnt_data": {}, "entity_type": "x\u{0}"
        });
        let Value::Object(map) = body else { unreachable!() };
        let faults = new_event(map, &Origin { ip: None, user_agent: None }).unwrap_err();
        let mut names: Vec<_> = faults.iter().map(|field| field.name.as_str()).collect();
        names.sort_unstable();
        let expected =
            ["entity_id", "entity_type", "event_category", "event_data", "event_type", "evnt_data", "user_id"];
        assert_eq!(names, expected);
    }
}
