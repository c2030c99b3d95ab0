//! The OpenAPI 3.1 document, built from the handlers, and the page that shows it (contract §8).

pub mod answers;
pub mod parameters;
pub mod requests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use actix_web::{
    HttpResponse,
    http::header,
    web::{Path, Redirect},
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{
    Modify, OpenApi as _,
    openapi::{
        Content, Header, Object, OpenApi, Ref, RefOr, Response,
        extensions::ExtensionsBuilder,
        path::Operation,
        schema::{AdditionalProperties, OneOf, Schema, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_swagger_ui::Config;

use super::{Problem, admin, apps, notifications, ops, problem::ProblemBody, stream, users};

/// Path of the document.
const ADDRESS: &str = "/api/v1/openapi.json";

/// The page loads everything from this hub. Swagger UI needs inline styles.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                           connect-src 'self'; frame-ancestors 'none'";

/// An operation's class of rate limit (contract §3), as its extension names it.
const CLASS: &str = "x-rate-limit-class";

/// Caching of the page's files and the document.
const CACHE_CONTROL: &str = "max-age=3600";

static DOCUMENT: LazyLock<Result<String, String>> = LazyLock::new(json_text);

static PAGE: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| Arc::new(Config::from(ADDRESS).validator_url("none")));

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "oriva-hub",
        version = "1.0.0",
        description = "The realtime hub that a platform of many apps runs for its users: events, notifications, \
                       webhooks. docs/asyncapi.json describes the stream.",
        contact(name = "oriva-hub"),
    ),
    paths(
        apps::events::publish,
        apps::events::publish_batch,
        apps::events::query,
        apps::notifications::create,
        apps::notifications::create_batch,
        users::notifications::feed,
        users::notifications::counts,
        users::notifications::read_all,
        users::presence::get,
        notifications::get,
        notifications::update,
        notifications::delete,
        apps::webhooks::create,
        apps::webhooks::list,
        apps::webhooks::get,
        apps::webhooks::update,
        apps::webhooks::delete,
        apps::webhooks::rotate_secret,
        apps::webhooks::test,
        apps::webhooks::deliveries::list,
        apps::webhooks::deliveries::redeliver,
        apps::webhooks::deliveries::recover,
        apps::webhooks::deliveries::recovery,
        apps::tokens::issue,
        stream::not_an_upgrade,
        admin::apps::list,
        admin::apps::create,
        admin::apps::get,
        admin::apps::update,
        admin::apps::delete,
        admin::keys::list,
        admin::keys::create,
        admin::keys::revoke,
        admin::audit::list,
        admin::stats::get,
        ops::healthz,
        ops::readyz,
        ops::metrics,
    ),
    components(schemas(ProblemBody)),
    servers((url = "/", description = "This hub")),
    modifiers(&Credentials, &Errors, &Headers, &Examples, &ForGenerators),
    tags(
        (name = "Events", description = "Publishing and listing events"),
        (name = "Notifications", description = "Notifications and feeds"),
        (name = "Stream", description = "Tokens, the WebSocket stream, and presence"),
        (name = "Webhooks", description = "Signed requests to apps about events"),
        (name = "Admin", description = "The operator's routes"),
        (name = "Operations", description = "Probes and metrics"),
    )
)]
struct Api;

/// The document.
#[must_use]
pub fn document() -> OpenApi {
    Api::openapi()
}

/// The document in JSON.
///
/// # Errors
/// Where it cannot be encoded.
pub fn json_text() -> Result<String, String> {
    document().to_pretty_json().map_err(|error| error.to_string())
}

/// The document in YAML, as `docs/openapi.yml` holds it.
///
/// # Errors
/// Where it cannot be encoded.
pub fn yaml() -> Result<String, String> {
    document().to_yaml().map_err(|error| error.to_string())
}

/// `GET /api/v1/openapi.json`.
///
/// # Errors
/// 500 where it cannot be encoded.
pub async fn json() -> Result<HttpResponse, Problem> {
    let text =
        DOCUMENT.as_deref().map_err(|error| Problem::internal(&*Box::<dyn std::error::Error>::from(error.as_str())))?;
    Ok(HttpResponse::Ok()
        .content_type("application/json")
        .insert_header((header::CACHE_CONTROL, CACHE_CONTROL))
        .body(text))
}

/// `GET /docs`: the page stands at `/docs/`, for the sake of its relative links.
pub async fn docs() -> Redirect {
    Redirect::to("/docs/")
}

/// `GET /docs/…`: the page and its files.
///
/// # Errors
/// 404.
pub async fn page(path: Path<String>) -> Result<HttpResponse, Problem> {
    let file = utoipa_swagger_ui::serve(&path, PAGE.clone()).map_err(|error| Problem::internal(&*error))?;
    let file = file.ok_or_else(Problem::not_found)?;
    Ok(HttpResponse::Ok()
        .content_type(file.content_type)
        .insert_header((header::CONTENT_SECURITY_POLICY, PAGE_POLICY))
        .insert_header((header::CACHE_CONTROL, CACHE_CONTROL))
        .body(file.bytes.into_owned()))
}

/// The three credentials of contract §1.
struct Credentials;

impl Modify for Credentials {
    fn modify(&self, openapi: &mut OpenApi) {
        let components = openapi.components.get_or_insert_default();
        for (name, format, description) in [
            (
                "app_key",
                "ohk_",
                "An app's API key: its server, acting for itself alone. `X-API-Key` is taken too, if there is no `Authorization`",
            ),
            ("user_token", "JWT", "A user's token, issued by an app: one user on a device"),
            ("admin_key", "opaque", "The operator's key, from the configuration"),
        ] {
            let scheme = HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .bearer_format(format)
                .description(Some(description))
                .build();
            components.security_schemes.insert(name.to_owned(), SecurityScheme::Http(scheme).into());
        }
    }
}

/// The errors that answers refer to, described once.
struct Errors;

impl Modify for Errors {
    fn modify(&self, openapi: &mut OpenApi) {
        openapi.components.get_or_insert_default().responses.extend(answers::errors());
    }
}

/// One example for each body, by operation. They are answers of a hub; a test asks again.
struct Examples;

const EXAMPLES: &str = include_str!("openapi/examples.json");

#[derive(Deserialize)]
struct OperationExample {
    request: Option<Value>,
    response: Option<Value>,
}

impl Examples {
    fn add<'c>(mut contents: impl Iterator<Item = &'c mut RefOr<Content>>, example: Option<Value>) {
        if let Some(RefOr::T(content)) = contents.next() {
            content.example = example;
        }
    }
}

impl Modify for Examples {
    fn modify(&self, openapi: &mut OpenApi) {
        let mut examples: HashMap<String, OperationExample> =
            serde_json::from_str(EXAMPLES).expect("the examples are JSON");
        for operation in operations(openapi) {
            let id = operation.operation_id.as_deref().unwrap_or_default();
            let Some(OperationExample { request, response }) = examples.remove(id) else { continue };
            if let Some(RefOr::T(body)) = &mut operation.request_body {
                Self::add(body.content.values_mut(), request);
            }
            let succeeded = operation.responses.responses.iter_mut().find(|(status, _)| status.starts_with('2'));
            if let Some((_, RefOr::T(answer))) = succeeded {
                Self::add(answer.content.values_mut(), response);
            }
        }
    }
}

/// What generators of clients read wrongly, written so that they do not.
struct ForGenerators;

impl ForGenerators {
    /// Results of a batch's items. Two shapes that only their required fields tell apart are one for most generators, which
    /// then read every answer as the first.
    const RESULTS: [&str; 2] = ["EventResult", "NotificationResult"];

    /// One object with the fields of all `shapes`, each of which may be absent.
    fn merged(shapes: &OneOf, schemas: &BTreeMap<String, RefOr<Schema>>) -> Object {
        let mut merged = Object::with_type(Type::Object);
        merged.description.clone_from(&shapes.description);
        for shape in &shapes.items {
            let RefOr::Ref(reference) = shape else { continue };
            let name = reference.ref_location.rsplit('/').next().unwrap_or_default();
            if let Some(RefOr::T(Schema::Object(object))) = schemas.get(name) {
                merged.properties.extend(object.properties.clone());
            }
        }
        merged
    }
}

impl Modify for ForGenerators {
    fn modify(&self, openapi: &mut OpenApi) {
        let schemas = &mut openapi.components.get_or_insert_default().schemas;
        for name in Self::RESULTS {
            if let Some(RefOr::T(Schema::OneOf(shapes))) = schemas.get(name) {
                let merged = Self::merged(shapes, schemas);
                schemas.insert(name.to_owned(), merged.into());
            }
        }
        // Go has one namespace for the names of all enums' values.
        for (name, prefix) in [("ItemErrorCode", "ITEM_"), ("AskedPriority", "ASKED_")] {
            if let Some(RefOr::T(Schema::Object(names))) = schemas.get_mut(name) {
                let values = names.enum_values.iter().flatten().filter_map(Value::as_str);
                let values: Vec<String> = values.map(|value| format!("{prefix}{}", value.to_uppercase())).collect();
                names.extensions = Some(ExtensionsBuilder::new().add("x-enum-varnames", values).build());
            }
        }
        // Without these words TypeScript's generators make it an object without fields.
        if let Some(RefOr::T(Schema::Object(any))) = schemas.get_mut("JsonObject") {
            any.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(true)));
        }
    }
}

fn operations(openapi: &mut OpenApi) -> impl Iterator<Item = &mut Operation> {
    let items = openapi.paths.paths.values_mut();
    items.flat_map(|item| {
        [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete, &mut item.head]
            .into_iter()
            .flatten()
    })
}

/// The headers of every answer, and those of routes with a rate limit (contract §2, §3).
struct Headers;

impl Headers {
    /// Name, type, description. The first is on every answer, the others on those of routes with a rate limit.
    const ALL: [(&str, Type, &str); 6] = [
        ("X-Request-Id", Type::String, "Id of the request in the hub's log"),
        ("X-RateLimit-Limit", Type::Integer, "Requests allowed in a window"),
        ("X-RateLimit-Remaining", Type::Integer, "Requests left in this window"),
        ("X-RateLimit-Reset", Type::Integer, "When the window ends, in Unix seconds"),
        ("RateLimit-Policy", Type::String, "The limit, by draft-ietf-httpapi-ratelimit-headers"),
        ("RateLimit", Type::String, "What is left of the limit, by the same draft"),
    ];

    fn add(operation: &mut Operation) {
        let extensions = operation.extensions.as_ref();
        let is_limited = extensions.is_some_and(|extensions| extensions.contains_key(CLASS));
        for (status, response) in &mut operation.responses.responses {
            // Errors are described once, for all routes.
            let RefOr::T(response) = response else { continue };
            let carried = if is_limited && status.starts_with('2') { Self::ALL.len() } else { 1 };
            Self::add_to(response, carried);
        }
    }

    fn add_to(response: &mut Response, carried: usize) {
        for (name, ..) in &Self::ALL[..carried] {
            let reference = Ref::new(format!("#/components/headers/{name}"));
            response.headers.insert((*name).to_owned(), RefOr::Ref(reference));
        }
    }
}

impl Modify for Headers {
    fn modify(&self, openapi: &mut OpenApi) {
        operations(openapi).for_each(Self::add);
        let components = openapi.components.get_or_insert_default();
        for (name, response) in &mut components.responses {
            if let RefOr::T(response) = response {
                Self::add_to(response, if name == "RateLimited" { Self::ALL.len() } else { 1 });
            }
        }
        for (name, schema_type, description) in Self::ALL {
            let mut header = Header::new(Object::with_type(schema_type));
            header.description = Some(description.to_owned());
            components.headers.insert(name.to_owned(), header.into());
        }
    }
}
