//! Every route against every kind of credential. A route that is missing here fails the test.

use serde_json::json;

use crate::{
    harness::{App, Backend, TestHub, callers::send, hub::ADMIN_KEY},
    on_both_stores,
};

on_both_stores!(every_route_against_every_credential);

/// The status for each credential: none, an invalid one, the app's key, another app's key, a platform app's key, a
/// user's token,
/// another app's user's token, the admin key.
type Row = (&'static str, &'static str, [u16; 8]);

const ROUTES: [Row; 43] = [
    ("HEAD", "/healthz", [200; 8]),
    ("HEAD", "/readyz", [200; 8]),
    ("GET", "/healthz", [200; 8]),
    ("GET", "/readyz", [200; 8]),
    ("GET", "/nope", [404; 8]),
    ("GET", "/api/v1/events/stream", [400; 8]),
    ("POST", "/api/v1/apps/a/events", [401, 401, 400, 403, 403, 403, 403, 403]),
    ("GET", "/api/v1/apps/a/events", [401, 401, 200, 403, 403, 403, 403, 403]),
    ("POST", "/api/v1/apps/a/events/batch", [401, 401, 400, 403, 403, 403, 403, 403]),
    ("POST", "/api/v1/apps/a/notifications", [401, 401, 400, 403, 403, 403, 403, 403]),
    ("POST", "/api/v1/apps/a/notifications/batch", [401, 401, 400, 403, 403, 403, 403, 403]),
    // A caller that may open the user's inbox sees only the notifications in its scope.
    ("GET", "/api/v1/users/alice/notifications", [401, 401, 200, 200, 200, 200, 200, 403]),
    ("GET", "/api/v1/users/bob/notifications", [401, 401, 200, 200, 200, 403, 403, 403]),
    ("GET", "/api/v1/users/bob/notifications/counts", [401, 401, 200, 200, 200, 403, 403, 403]),
    ("POST", "/api/v1/users/bob/notifications/read-all", [401, 401, 200, 200, 200, 403, 403, 403]),
    ("GET", "/api/v1/users/alice/presence", [401, 401, 200, 200, 200, 200, 200, 403]),
    ("GET", "/api/v1/users/bob/presence", [401, 401, 200, 200, 200, 403, 403, 403]),
    ("GET", "/api/v1/notifications/{alices}", [401, 401, 200, 403, 200, 200, 403, 403]),
    ("PATCH", "/api/v1/notifications/{alices}", [401, 401, 400, 403, 400, 400, 403, 403]),
    ("GET", "/api/v1/apps/a/webhooks", [401, 401, 200, 403, 403, 403, 403, 403]),
    ("POST", "/api/v1/apps/a/webhooks", [401, 401, 400, 403, 403, 403, 403, 403]),
    ("GET", "/api/v1/apps/a/webhooks/018f0000-0000-7000-8000-000000000000", [401, 401, 404, 403, 403, 403, 403, 403]),
    ("PATCH", "/api/v1/apps/a/webhooks/018f0000-0000-7000-8000-000000000000", [401, 401, 404, 403, 403, 403, 403, 403]),
    (
        "DELETE",
        "/api/v1/apps/a/webhooks/018f0000-0000-7000-8000-000000000000",
        [401, 401, 404, 403, 403, 403, 403, 403],
    ),
    ("POST", "/api/v1/apps/a/webhooks/not-a-uuid/rotate-secret", [401, 401, 404, 403, 403, 403, 403, 403]),
    ("POST", "/api/v1/apps/a/webhooks/not-a-uuid/test", [401, 401, 404, 403, 403, 403, 403, 403]),
    ("GET", "/api/v1/apps/a/webhooks/not-a-uuid/deliveries", [401, 401, 404, 403, 403, 403, 403, 403]),
    ("POST", "/api/v1/apps/a/webhooks/not-a-uuid/deliveries/x/redeliver", [401, 401, 404, 403, 403, 403, 403, 403]),
    ("POST", "/api/v1/apps/a/webhooks/not-a-uuid/recover", [401, 401, 404, 403, 403, 403, 403, 403]),
    ("GET", "/api/v1/apps/a/webhooks/not-a-uuid/recover", [401, 401, 404, 403, 403, 403, 403, 403]),
    ("POST", "/api/v1/apps/a/users/alice/tokens", [401, 401, 201, 403, 403, 403, 403, 403]),
    ("DELETE", "/api/v1/notifications/{alices}", [401, 401, 204, 403, 403, 403, 403, 403]),
    ("GET", "/api/v1/admin/stats", [401, 401, 403, 403, 403, 403, 403, 200]),
    ("GET", "/api/v1/admin/audit", [401, 401, 403, 403, 403, 403, 403, 200]),
    ("GET", "/api/v1/admin/apps", [401, 401, 403, 403, 403, 403, 403, 200]),
    ("POST", "/api/v1/admin/apps", [401, 401, 403, 403, 403, 403, 403, 400]),
    ("GET", "/api/v1/admin/apps/a", [401, 401, 403, 403, 403, 403, 403, 200]),
    ("PATCH", "/api/v1/admin/apps/a", [401, 401, 403, 403, 403, 403, 403, 200]),
    ("DELETE", "/api/v1/admin/apps/none", [401, 401, 403, 403, 403, 403, 403, 404]),
    ("GET", "/api/v1/admin/apps/a/keys", [401, 401, 403, 403, 403, 403, 403, 200]),
    ("POST", "/api/v1/admin/apps/a/keys", [401, 401, 403, 403, 403, 403, 403, 201]),
    ("DELETE", "/api/v1/admin/keys/018f0000-0000-7000-8000-000000000000", [401, 401, 403, 403, 403, 403, 403, 404]),
    ("DELETE", "/api/v1/admin/keys/not-a-uuid", [401, 401, 403, 403, 403, 403, 403, 404]),
];

async fn every_route_against_every_credential(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other, platform) = (hub.app("a").await, hub.app("b").await, hub.platform_app("core").await);
    let (token, foreign_token) = (app.token("alice").await, other.token("alice").await);
    let credentials = [
        None,
        Some("made-up"),
        Some(&*app.key),
        Some(&*other.key),
        Some(&*platform.key),
        Some(&*token),
        Some(&*foreign_token),
        Some(ADMIN_KEY),
    ];
    for (method, path, expected) in ROUTES {
        for (credential, expected) in credentials.into_iter().zip(expected) {
            let path = match path.strip_suffix("{alices}") {
                Some(before) => format!("{before}{}", app.notify(&App::notification("alice", "x")).await),
                None => path.to_owned(),
            };
            let body = ["POST", "PATCH"].contains(&method).then(|| json!({}));
            let answer = send(hub.addr, method, &path, credential, &[], body).await;
            assert_eq!(answer.status, expected, "{method} {path} with {credential:?}: {}", answer.body);
        }
    }
}
