//! The HTTP edge: routes and wire types. Folders follow the URLs. This file lists all routes.

mod admin;
mod apps;
mod auth;
mod body;
mod client_address;
mod idempotency;
mod middleware;
mod notifications;
pub mod openapi;
mod ops;
mod paced;
mod path;
mod problem;
mod query;
mod rate_limit;
mod request_id;
pub mod stream;
mod unread_body;
mod users;

use actix_web::{
    HttpRequest, Responder, Route, guard,
    http::Method,
    web::{self, ServiceConfig},
};

pub use body::MaxBodyBytes;
pub use client_address::TrustedProxies;
pub use middleware::{ClosingAnswer, KEEP_ALIVE, OwnTls, admission, request_context};
pub use paced::PendingAnswers;
pub use problem::{Code, Problem};

/// Every route but the stream's, whose requests never come here: they leave HTTP before (see `stream`).
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/healthz", [(Method::GET, web::to(ops::healthz))]))
        .service(resource("/readyz", [(Method::GET, web::to(ops::readyz))]))
        .service(resource("/metrics", [(Method::GET, web::to(ops::metrics))]))
        .service(resource("/docs", [(Method::GET, web::to(openapi::docs))]))
        .service(resource("/docs/{file:.*}", [(Method::GET, web::to(openapi::page))]))
        .service(
            web::scope("/api/v1")
                .service(resource("/openapi.json", [(Method::GET, web::to(openapi::json))]))
                .service(resource("/events/stream", [(Method::GET, web::to(stream::not_an_upgrade))]))
                .service(resource(
                    "/apps/{app_id}/events",
                    [(Method::GET, web::to(apps::events::query)), (Method::POST, web::to(apps::events::publish))],
                ))
                .service(resource(
                    "/apps/{app_id}/events/batch",
                    [(Method::POST, web::to(apps::events::publish_batch))],
                ))
                .service(resource(
                    "/apps/{app_id}/notifications",
                    [(Method::POST, web::to(apps::notifications::create))],
                ))
                .service(resource(
                    "/apps/{app_id}/notifications/batch",
                    [(Method::POST, web::to(apps::notifications::create_batch))],
                ))
                .service(resource(
                    "/users/{user_id}/notifications",
                    [(Method::GET, web::to(users::notifications::feed))],
                ))
                .service(resource(
                    "/users/{user_id}/notifications/counts",
                    [(Method::GET, web::to(users::notifications::counts))],
                ))
                .service(resource(
                    "/users/{user_id}/notifications/read-all",
                    [(Method::POST, web::to(users::notifications::read_all))],
                ))
                .service(resource("/users/{user_id}/presence", [(Method::GET, web::to(users::presence::get))]))
                .service(resource(
                    "/notifications/{notification_id}",
                    [
                        (Method::GET, web::to(notifications::get)),
                        (Method::PATCH, web::to(notifications::update)),
                        (Method::DELETE, web::to(notifications::delete)),
                    ],
                ))
                .service(resource(
                    "/apps/{app_id}/webhooks",
                    [(Method::GET, web::to(apps::webhooks::list)), (Method::POST, web::to(apps::webhooks::create))],
                ))
                .service(resource(
                    "/apps/{app_id}/webhooks/{webhook_id}",
                    [
                        (Method::GET, web::to(apps::webhooks::get)),
                        (Method::PATCH, web::to(apps::webhooks::update)),
                        (Method::DELETE, web::to(apps::webhooks::delete)),
                    ],
                ))
                .service(resource(
                    "/apps/{app_id}/webhooks/{webhook_id}/rotate-secret",
                    [(Method::POST, web::to(apps::webhooks::rotate_secret))],
                ))
                .service(resource(
                    "/apps/{app_id}/webhooks/{webhook_id}/test",
                    [(Method::POST, web::to(apps::webhooks::test))],
                ))
                .service(resource(
                    "/apps/{app_id}/webhooks/{webhook_id}/deliveries",
                    [(Method::GET, web::to(apps::webhooks::deliveries::list))],
                ))
                .service(resource(
                    "/apps/{app_id}/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
                    [(Method::POST, web::to(apps::webhooks::deliveries::redeliver))],
                ))
                .service(resource(
                    "/apps/{app_id}/webhooks/{webhook_id}/recover",
                    [
                        (Method::GET, web::to(apps::webhooks::deliveries::recovery)),
                        (Method::POST, web::to(apps::webhooks::deliveries::recover)),
                    ],
                ))
                .service(resource(
                    "/apps/{app_id}/users/{user_id}/tokens",
                    [(Method::POST, web::to(apps::tokens::issue))],
                ))
                .service(resource(
                    "/admin/apps",
                    [(Method::GET, web::to(admin::apps::list)), (Method::POST, web::to(admin::apps::create))],
                ))
                .service(resource(
                    "/admin/apps/{app_id}",
                    [
                        (Method::GET, web::to(admin::apps::get)),
                        (Method::PATCH, web::to(admin::apps::update)),
                        (Method::DELETE, web::to(admin::apps::delete)),
                    ],
                ))
                .service(resource(
                    "/admin/apps/{app_id}/keys",
                    [(Method::GET, web::to(admin::keys::list)), (Method::POST, web::to(admin::keys::create))],
                ))
                .service(resource("/admin/audit", [(Method::GET, web::to(admin::audit::list))]))
                .service(resource("/admin/stats", [(Method::GET, web::to(admin::stats::get))]))
                .service(resource("/admin/keys/{key_id}", [(Method::DELETE, web::to(admin::keys::revoke))])),
        )
        .default_service(web::to(unknown_route));
}

/// A path with its methods; any other method is answered 405 with the list.
fn resource<const N: usize>(path: &str, routes: [(Method, Route); N]) -> actix_web::Resource {
    let mut names: Vec<String> = routes.iter().map(|(method, _)| method.to_string()).collect();
    let mut resource = web::resource(path);
    for (method, route) in routes {
        // What can be had can be asked about (RFC 9110 §9.3.2); the server leaves the body out.
        resource = resource.route(if method == Method::GET {
            names.push(Method::HEAD.to_string());
            route.guard(guard::Any(guard::Get()).or(guard::Head()))
        } else {
            route.method(method)
        });
    }
    let allow = names.join(", ");
    resource.default_service(web::to(move |request: HttpRequest| {
        let allow = allow.clone();
        async move { method_not_allowed(&request, allow) }
    }))
}

async fn unknown_route(request: HttpRequest) -> Problem {
    Problem::no_route(request.path())
}

fn method_not_allowed(request: &HttpRequest, allow: String) -> Problem {
    let detail = format!("{} is not among {allow}", request.method());
    Problem { allow: Some(allow), ..Problem::new(Code::MethodNotAllowed, detail) }
}

impl Responder for Problem {
    type Body = actix_web::body::BoxBody;

    fn respond_to(self, _: &HttpRequest) -> actix_web::HttpResponse {
        actix_web::ResponseError::error_response(&self)
    }
}
