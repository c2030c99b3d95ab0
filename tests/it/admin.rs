//! Apps and keys over HTTP (contract §1, §8).

use serde_json::json;

use crate::{
    harness::{App, Backend, TestHub},
    on_both_stores,
};

on_both_stores!(
    apps_are_made_changed_and_deleted,
    a_revoked_key_is_refused_at_once,
    an_inactive_app_is_refused_everywhere,
    what_was_done_is_written_down,
);

async fn apps_are_made_changed_and_deleted(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let make = |body| hub.admin("POST", "/api/v1/admin/apps", Some(body));
    let made =
        make(json!({"app_id": "a", "name": "A", "icon_url": "https://x.example/i.png", "limits": {"read": 7}})).await;
    assert_eq!(made.status, 201);
    let key = made.body["api_key"].as_str().unwrap();
    assert!(key.starts_with("ohk_") && key.len() == 47);
    assert_eq!((&made.body["is_active"], &made.body["limits"]["read"]), (&json!(true), &json!(7)));
    assert_eq!(make(json!({"app_id": "a", "name": "A"})).await.code(), "conflict");
    let faulty =
        make(json!({"app_id": "A", "icon_url": "ftp://x", "is_platform": 1, "limits": {"x": 1}, "y": 2})).await;
    assert_eq!(faulty.fields(), ["app_id", "icon_url", "is_platform", "limits.x", "name", "y"]);

    let patch = |body| hub.admin("PATCH", "/api/v1/admin/apps/a", Some(body));
    let changed = patch(json!({"name": "B", "icon_url": null})).await;
    assert_eq!((&changed.body["name"], &changed.body["icon_url"]), (&json!("B"), &json!(null)));
    assert_eq!(patch(json!({"name": ""})).await.fields(), ["name"]);
    let listed = hub.admin("GET", "/api/v1/admin/apps", None).await.body;
    assert!(listed["apps"].as_array().unwrap().iter().any(|app| app["app_id"] == "a" && app["name"] == "B"));
    assert!(hub.admin("GET", "/api/v1/admin/apps/a", None).await.body["api_key"].is_null(), "shown once");

    let app = App::new(hub.addr, "a", key);
    app.publish("alice", "1").await;
    assert_eq!(hub.admin("DELETE", "/api/v1/admin/apps/a", None).await.code(), "conflict", "it has data");
    make(json!({"app_id": "b", "name": "B"})).await;
    assert_eq!(hub.admin("DELETE", "/api/v1/admin/apps/b", None).await.status, 204);
    assert_eq!(hub.admin("GET", "/api/v1/admin/apps/b", None).await.status, 404);
}

async fn a_revoked_key_is_refused_at_once(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let app = hub.app("a").await;
    let made = hub.admin("POST", "/api/v1/admin/apps/a/keys", None).await;
    let second = App::new(hub.addr, "a", made.body["api_key"].as_str().unwrap());
    second.publish("alice", "1").await;
    let mut socket = second.connect_app().await;
    let path = format!("/api/v1/admin/keys/{}", made.body["key_id"].as_str().unwrap());
    assert_eq!(hub.admin("DELETE", &path, None).await.status, 200);
    assert_eq!(second.post(&App::event("alice", "2")).await.status, 401, "though it was cached");
    assert_eq!(socket.closed().await.0, 4003);
    app.publish("alice", "3").await;
    let keys = hub.admin("GET", "/api/v1/admin/apps/a/keys", None).await.body;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    assert!(!keys["keys"][1]["revoked_at"].is_null() && keys["keys"][1]["api_key"].is_null());
}

async fn an_inactive_app_is_refused_everywhere(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, other) = (hub.app("a").await, hub.app("b").await);
    let token = app.token("alice").await;
    let (mut server, mut device, mut bystander) =
        (app.connect_app().await, app.connect("alice").await, other.connect("alice").await);
    assert_eq!(hub.admin("PATCH", "/api/v1/admin/apps/a", Some(json!({"is_active": false}))).await.status, 200);
    assert_eq!(server.closed().await.0, 4003);
    assert_eq!(device.closed().await.0, 4003);
    assert!(bystander.is_quiet().await, "another app's user stays");
    assert_eq!(app.post(&App::event("alice", "1")).await.status, 401);
    for credential in [&app.key, &token] {
        let refused = crate::harness::Socket::open(hub.addr, credential).await.err().unwrap();
        assert_eq!(refused, crate::harness::Refused::Http(403, "forbidden".to_owned()));
        let refused = crate::harness::Socket::open_v1(hub.addr, credential).await.err().unwrap();
        assert!(matches!(refused, crate::harness::Refused::Closed(4003, _)), "{refused:?}");
    }
    assert_eq!(hub.admin("PATCH", "/api/v1/admin/apps/a", Some(json!({"is_active": true}))).await.status, 200);
    app.publish("alice", "2").await;
}

async fn what_was_done_is_written_down(backend: Backend) {
    let hub = TestHub::start(backend).await;
    let (app, core) = (hub.app("work-buddy").await, hub.platform_app("oriva-core").await);
    let id = app.notify(&App::notification("alice", "a secret title")).await;
    core.user("alice").await.set(&id, "dismissed").await;
    hub.admin("PATCH", "/api/v1/admin/apps/work-buddy", Some(json!({"name": "B"}))).await;

    let log = async |query: &str| hub.admin("GET", &format!("/api/v1/admin/audit{query}"), None).await.body;
    let all = log("").await;
    let shown: Vec<_> = all["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["actor"].as_str().unwrap(), entry["action"].as_str().unwrap()))
        // An embedded store begins with one app.
        .filter(|(actor, _)| *actor != "first-run")
        .collect();
    assert_eq!(
        shown,
        [
            ("admin", "app.update"),
            ("user:alice", "notification.dismissed"),
            ("work-buddy", "notification.created"),
            ("admin", "app.create"),
            ("admin", "app.create"),
        ]
    );
    assert!(!all.to_string().contains("a secret title"));
    assert_eq!(all["entries"][1]["ip_address"], "127.0.0.1");

    let of_one = log(&format!("?subject={id}&app_id=work-buddy")).await;
    assert_eq!(of_one["entries"].as_array().unwrap().len(), 2);
    let last = all["entries"][0]["at"].as_str().unwrap();
    assert_eq!(log(&format!("?actor=admin&since={last}")).await["entries"].as_array().unwrap().len(), 1);
    assert_eq!(log("?action=app.create&until=2020-01-01T00:00:00Z").await["entries"], json!([]));

    // By pages: each once.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = log(&format!("?limit=2{cursor}")).await;
        paged.extend(page["entries"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(json!(paged), all["entries"]);
    let faulty = hub.admin("GET", "/api/v1/admin/audit?limit=0&since=x&who=me&cursor=1", None).await;
    assert_eq!(faulty.fields(), ["cursor", "limit", "since", "who"]);
}
