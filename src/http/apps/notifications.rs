//! `/apps/{app_id}/notifications`: create one notification, many, or one for many users (contract §6).

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::Data,
};
use oriva_hub_actors::model::{Invalid, JsonObject, NotificationId, Timestamp, UserId};
use serde_json::value::RawValue;

use crate::{
    http::{
        Problem,
        auth::AppKey,
        body::{BatchFaults, Body, Fields, text},
        idempotency,
        openapi::{
            answers::{Idempotent, Limited, WithBody},
            parameters::{IdempotencyKey, OfApp},
            requests::{self, NotificationBatch},
        },
        rate_limit::Notify,
    },
    hub::{Hub, Lines, MAX_BATCH, action_url, image_url, plain_text},
    store::{BatchItem, Content, FaultyField, NewNotification, NotificationReceipt, NotificationReceipts, Priority},
};

/// Greatest number of characters of a text with its tags. It bounds the work of removing them, far above what may
/// remain.
const MAX_RAW_CHARACTERS: usize = 16 * 1024;

/// Creates one notification.
#[utoipa::path(
    post,
    path = "/api/v1/apps/{app_id}/notifications",
    operation_id = "createNotification",
    tag = "Notifications",
    params(OfApp, IdempotencyKey),
    request_body = requests::NotificationInput,
    responses(
        (
            status = 201,
            description = "The notification was created",
            body = NotificationReceipt,
            headers(
                ("Location" = String, description = "URL of the notification"),
                ("Idempotency-Replayed" = String, description = "`true` if this is the answer of an earlier request"),
            )
        ),
        Limited,
        WithBody,
        Idempotent
    ),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("notify"))),
)]
pub async fn create(
    app: AppKey<Notify>,
    hub: Data<Hub>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let key = idempotency::from_request(&request)?;
    let bytes = body.json().await?;
    let new = new_notification(Fields::parse(&bytes)?).map_err(Problem::invalid)?;
    let idempotency = key.map(|key| key(&bytes));
    let written = hub.create_notification(app.holder(), new, app.origin(&request), idempotency).await?;
    let mut response = idempotency::answer(StatusCode::CREATED, &written);
    let location = format!("/api/v1/notifications/{}", written.result.notification_id);
    Ok(response.insert_header((header::LOCATION, location)).json(written.result))
}

/// Creates up to 1,000 notifications.
///
/// All valid notifications are stored together. An invalid one gets its error in its place of the answer. A batch
/// counts as many requests as it has notifications.
#[utoipa::path(
    post,
    path = "/api/v1/apps/{app_id}/notifications/batch",
    operation_id = "createNotifications",
    tag = "Notifications",
    params(OfApp, IdempotencyKey),
    request_body = NotificationBatch,
    responses(
        (status = 200, description = "One result for each notification, in the order of the request", body = NotificationReceipts, headers(("Idempotency-Replayed" = String, description = "`true` if this is the answer of an earlier request"))),
        Limited,
        WithBody,
        Idempotent
    ),
    security(("app_key" = [])),
    extensions(("x-rate-limit-class" = json!("notify"))),
)]
pub async fn create_batch(
    app: AppKey<Notify>,
    hub: Data<Hub>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let key = idempotency::from_request(&request)?;
    let bytes = body.json().await?;
    let fields = Fields::parse(&bytes)?;
    let wanted = if fields.has("user_ids") { Wanted::for_users(fields) } else { Wanted::one_by_one(fields) };
    let wanted = wanted.map_err(Problem::invalid)?;
    let more = u32::try_from(wanted.len().saturating_sub(1)).unwrap_or(u32::MAX);
    app.consume_more(&request, &hub, more).await?;
    let idempotency = key.map(|key| key(&bytes));
    let written = hub.create_notifications(app.holder(), wanted.items(), app.origin(&request), idempotency).await?;
    Ok(idempotency::answer(StatusCode::OK, &written).json(written.result))
}

/// A parsed batch, before its cost is counted.
enum Wanted<'a> {
    Items(Vec<&'a RawValue>),
    Shared(Arc<Content>, Vec<Result<UserId, Invalid>>),
}

impl<'a> Wanted<'a> {
    fn one_by_one(mut fields: Fields<'a>) -> Result<Self, Vec<FaultyField>> {
        let items = fields.batch("notifications", MAX_BATCH);
        fields.finish()?;
        Ok(Self::Items(items.unwrap_or_default()))
    }

    fn for_users(mut fields: Fields<'a>) -> Result<Self, Vec<FaultyField>> {
        let users = fields.batch("user_ids", MAX_BATCH).unwrap_or_default();
        let users = users.into_iter().map(|user| match serde_json::from_str::<String>(user.get()) {
            Ok(user) => UserId::parse(&user),
            Err(_) => Err(Invalid("must be strings".to_owned())),
        });
        let users = users.collect();
        if fields.has("external_id") {
            fields.fault("external_id", "is unique in the app, so it does not go with user_ids");
        }
        let content = content(&mut fields);
        fields.finish()?;
        Ok(Self::Shared(Arc::new(content.ok_or_else(Vec::new)?), users))
    }

    fn len(&self) -> usize {
        match self {
            Self::Items(items) => items.len(),
            Self::Shared(_, users) => users.len(),
        }
    }

    fn items(self) -> Vec<BatchItem<NewNotification>> {
        let mut faults = BatchFaults::default();
        match self {
            Self::Items(items) => items
                .into_iter()
                .map(|item| match Fields::of_item(item) {
                    Some(fields) => new_notification(fields).map_err(|found| faults.reject(found)),
                    None => Err(faults.reject(vec![FaultyField::new("notifications", "must be objects")])),
                })
                .collect(),
            Self::Shared(content, users) => users
                .into_iter()
                .map(|user| {
                    let fault = |Invalid(rule): Invalid| faults.reject(vec![FaultyField::new("user_ids", &rule)]);
                    let user_id = user.map_err(fault)?;
                    Ok(NewNotification { id: NotificationId::generate(), user_id, content: content.clone() })
                })
                .collect(),
        }
    }
}

fn new_notification(mut fields: Fields<'_>) -> Result<NewNotification, Vec<FaultyField>> {
    let user_id = fields.required("user_id", UserId::parse);
    let content = content(&mut fields);
    fields.finish()?;
    let (Some(user_id), Some(content)) = (user_id, content) else {
        // A fault was noted for each of them that is missing.
        return Err(Vec::new());
    };
    Ok(NewNotification { id: NotificationId::generate(), user_id, content: Arc::new(content) })
}

/// The content of a notification. `None` if a fault was noted.
fn content(fields: &mut Fields<'_>) -> Option<Content> {
    fields.rename("metadata", "context_data");
    fields.rename("category", "notification_type");
    let title = fields.required_text("title", plain(1..=200, Lines::One));
    let body = fields.required_text("body", plain(1..=1000, Lines::Many));
    let content = Content {
        external_id: fields.optional("external_id", text(1..=255)),
        notification_type: fields.optional("notification_type", text(1..=100)).unwrap_or_else(|| "general".to_owned()),
        title: title.unwrap_or_default(),
        body: body.unwrap_or_default(),
        priority: fields.optional("priority", Priority::parse).unwrap_or_default(),
        action_url: fields.optional("action_url", action_url),
        action_label: fields.optional_text("action_label", plain(0..=50, Lines::One)).filter(|label| !label.is_empty()),
        image_url: fields.optional("image_url", image_url),
        icon_url: fields.optional("icon_url", image_url),
        context_data: fields.object("context_data").unwrap_or_else(JsonObject::empty),
        expires_at: fields.optional("expires_at", in_the_future),
    };
    (!content.title.is_empty() && !content.body.is_empty()).then_some(content)
}

/// A rule for plain text with this many characters after its tags are removed.
fn plain(characters: std::ops::RangeInclusive<usize>, lines: Lines) -> impl FnOnce(&str) -> Result<String, Invalid> {
    move |raw| {
        if raw.chars().count() > MAX_RAW_CHARACTERS {
            return Err(Invalid(format!("must be at most {MAX_RAW_CHARACTERS} characters, tags included")));
        }
        let plain = plain_text(raw, lines);
        let is_blank = plain.chars().all(char::is_whitespace);
        if characters.contains(&plain.chars().count()) && !(is_blank && *characters.start() > 0) {
            Ok(plain)
        } else {
            Err(Invalid(format!(
                "must be {} to {} characters, not all blank, once tags are taken out",
                characters.start(),
                characters.end()
            )))
        }
    }
}

fn in_the_future(text: &str) -> Result<Timestamp, Invalid> {
    let moment = Timestamp::parse(text)?;
    if moment > Timestamp::now() { Ok(moment) } else { Err(Invalid("must be in the future".to_owned())) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(body: Value) -> Result<NewNotification, Vec<String>> {
        let body = body.to_string();
        new_notification(Fields::parse(body.as_bytes()).unwrap()).map_err(|faults| {
            let mut names: Vec<_> = faults.into_iter().map(|fault| fault.field).collect();
            names.sort_unstable();
            names
        })
    }

    #[test]
    fn every_faulty_field_is_named() {
        let faults = parse(json!({
            "user_id": "", "title": "<b></b>", "body": 7, "priority": "loud", "external_id": "", "notification_type": "",
            "action_url": "javascript:1", "image_url": "app://x", "icon_url": "x", "action_label": "a".repeat(51),
            "context_data": [], "expires_at": "2020-01-01T00:00:00Z", "tittle": 1
        }));
        let expected = [
            "action_label",
            "action_url",
            "body",
            "context_data",
            "expires_at",
            "external_id",
            "icon_url",
            "image_url",
            "notification_type",
            "priority",
            "title",
            "tittle",
            "user_id",
        ];
        assert_eq!(faults.unwrap_err(), expected);
        assert_eq!(parse(json!({})).unwrap_err(), ["body", "title", "user_id"]);
    }

    #[test]
    fn characters_are_counted_and_not_bytes() {
        let of = |title: String, body: String| parse(json!({"user_id": "u", "title": title, "body": body}));
        assert!(of("\u{1f600}".repeat(200), "é".repeat(1000)).is_ok());
        assert_eq!(of("\u{1f600}".repeat(201), "é".repeat(1001)).unwrap_err(), ["body", "title"]);
        assert_eq!(of("   ".to_owned(), "\n".to_owned()).unwrap_err(), ["body", "title"]);
        assert!(of(format!("<b>{}</b>", "x".repeat(200)), "b".to_owned()).is_ok(), "tags do not count");
    }

    #[test]
    fn aliases_stand_for_their_fields() {
        let new = parse(json!({
            "user_id": "u", "title": "t", "body": "b", "metadata": {"a": 1}, "category": "social", "priority": "critical"
        }))
        .unwrap();
        assert_eq!(new.content.context_data.as_str(), r#"{"a":1}"#);
        assert_eq!((&*new.content.notification_type, new.content.priority), ("social", Priority::Urgent));
        let both = json!({"user_id": "u", "title": "t", "body": "b", "metadata": {}, "context_data": {}});
        assert_eq!(parse(both).unwrap_err(), ["metadata"]);
    }

    #[test]
    fn defaults_are_the_contracts() {
        let new = parse(json!({"user_id": "u", "title": "t", "body": "b", "action_label": "<i></i>"})).unwrap();
        assert_eq!((&*new.content.notification_type, new.content.priority), ("general", Priority::Normal));
        assert_eq!((new.content.context_data.as_str(), &new.content.action_label), ("{}", &None));
    }
}
