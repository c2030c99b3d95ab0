//! The OpenAPI document against the hub, with a public fuzzer (PyPI `schemathesis`), and the page that shows the
//! document.

use std::{path::Path, process::Command};

use oriva_hub::http::openapi;
use serde_json::{Value, json};

use crate::{
    harness::{App, Backend, Browser, Receiver, TestHub, callers::client, eventually, hub::ADMIN_KEY},
    on_both_stores,
};

on_both_stores!(a_fuzzer_finds_the_hub_as_documented);

#[test]
fn the_document_in_the_repository_is_the_programs() {
    let kept = include_str!("../../docs/openapi.yml");
    let made = openapi::yaml().unwrap();
    assert!(kept == made, "docs/openapi.yml is not up to date: oriva-hub openapi > docs/openapi.yml");
    assert!(!made.contains("contract"), "its readers have no contract");
}

/// `{user_id:.*}` and `{user_id}` are the same parameter.
fn served() -> Vec<String> {
    let routes = include_str!("../../src/http/mod.rs");
    let (outside, inside) = routes.split_once("web::scope(\"/api/v1\")").unwrap();
    let paths = |text: &str, base: &str| -> Vec<String> {
        let parts = text.split("service(resource(").skip(1);
        parts.map(|part| format!("{base}{}", part.split('"').nth(1).unwrap())).collect()
    };
    [paths(outside, ""), paths(inside, "/api/v1")].concat()
}

#[test]
fn every_route_is_in_the_document() {
    let document = serde_json::to_value(openapi::document()).unwrap();
    let documented = document["paths"].as_object().unwrap();
    let own = ["/docs", "/docs/{file:.*}", "/api/v1/openapi.json"];
    let routes = served();
    assert!(routes.len() > 25, "{routes:?}");
    for route in &routes {
        assert!(documented.contains_key(route) != own.contains(&route.as_str()), "{route}");
    }
    assert_eq!(routes.len(), documented.len() + own.len());
}

#[test]
fn every_operation_says_what_it_answers_and_who_may_call_it() {
    let document = serde_json::to_value(openapi::document()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let at = format!("{method} {path}");
            ids.push(operation["operationId"].to_string());
            assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{at}");
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.keys().any(|status| status.starts_with(['1', '2'])), "{at}");
            if path.starts_with("/api/") {
                assert!(operation["security"].as_array().is_some_and(|schemes| !schemes.is_empty()), "{at}");
                for status in ["401", "403", "500", "503"] {
                    assert!(answers.contains_key(status), "{at} has no {status}");
                }
            }
            let is_limited = operation.get("x-rate-limit-class").is_some();
            for (status, answer) in answers.iter().filter(|(status, _)| status.starts_with('2')) {
                let headers = answer["headers"].as_object().unwrap();
                assert_eq!(headers.contains_key("X-RateLimit-Remaining"), is_limited, "{at} {status}");
                assert!(headers.contains_key("X-Request-Id"), "{at} {status}");
            }
            let has_body = operation.get("requestBody").is_some();
            assert!(!has_body || ["400", "413", "415"].iter().all(|status| answers.contains_key(*status)), "{at}");
        }
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "an operation's id is its own");
}

/// The names of all fields, with those of objects within.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            // What clients name themselves is not compared.
            let is_free = |name: &str| ["limits", "by_app", "event_data", "context_data"].contains(&name);
            let inner = |(name, value): (&String, &Value)| {
                (name.clone(), if is_free(name) { Value::Null } else { shape(value) })
            };
            fields.iter().map(inner).collect()
        }
        Value::Array(items) => items.first().map_or_else(|| json!([]), |first| json!([shape(first)])),
        _ => Value::Null,
    }
}

/// Every operation is asked as its example says, and answers with the fields of its example.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_has_an_example_that_holds() {
    let hub = TestHub::start_with(Backend::Sqlite, |config| config.webhooks.allow_http = true).await;
    let app = hub.app("work-buddy").await;
    let receiver = Receiver::start().await;
    let ids = furnish(&hub, &app, &receiver).await;
    let id = |name: &str| ids.iter().find(|(id, _)| *id == name).map(|(_, id)| id.clone()).unwrap();
    let document = serde_json::to_value(openapi::document()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            // What is deleted comes last, and the app's own things before it.
            let order = (method == "delete", !path.contains("admin"));
            operations.push((order, method.clone(), path.clone(), operation.clone()));
        }
    }
    operations.sort_by_key(|(order, ..)| *order);
    for (_, method, path, operation) in operations {
        if ["openStream", "getMetrics"].iter().any(|other| operation["operationId"] == *other) {
            continue;
        }
        let to = if method == "delete" && path.ends_with("apps/{app_id}") { "deleted" } else { "work-buddy" };
        let address = path
            .replace("{app_id}", to)
            .replace("{user_id}", "ada")
            .replace("{notification_id}", &id("NOTIFICATION_ID"))
            .replace("{webhook_id}", &id("WEBHOOK_ID"))
            .replace("{delivery_id}", &id("DELIVERY_ID"))
            .replace("{key_id}", &id("KEY_ID"));
        let address = if to == "deleted" { address.replace("work-buddy", to) } else { address };
        let request = operation["requestBody"]["content"]["application/json"]["example"].clone();
        let body = (!request.is_null()).then(|| {
            // An app that is there already, and an address that nobody listens at.
            let text = request.to_string().replace("https://example.com/hook", &receiver.url("/ok"));
            serde_json::from_str::<Value>(&text.replace("\"work-buddy\"", "\"new-app\"")).unwrap()
        });
        assert_eq!(
            body.is_some(),
            operation.get("requestBody").is_some() && method != "get" || body.is_some(),
            "{path}"
        );
        let key = if path.contains("admin") { ADMIN_KEY } else { &app.key };
        let answer =
            crate::harness::callers::send(hub.addr, &method.to_uppercase(), &address, Some(key), &[], body).await;
        assert!(answer.status < 300, "{method} {address}: {} {}", answer.status, answer.body);
        let answers = operation["responses"].as_object().unwrap();
        let (_, answered) = answers.iter().find(|(status, _)| status.starts_with('2')).unwrap();
        if let Some(content) = answered.get("content") {
            let example = &content["application/json"]["example"];
            assert_eq!(shape(&answer.body), shape(example), "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_and_the_document_load_nothing_from_elsewhere() {
    let hub = TestHub::start(Backend::Sqlite).await;
    let get = async |path: &str| {
        let answer = client().get(format!("http://{}{path}", hub.addr)).send().await.unwrap();
        let header = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let (status, policy, kind) =
            (answer.status().as_u16(), header("content-security-policy"), header("content-type"));
        (status, policy, kind, answer.text().await.unwrap_or_default())
    };

    let (status, policy, kind, page) = get("/docs").await;
    assert_eq!((status, &*kind), (200, "text/html"), "{page}");
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self';"), "{policy}");
    assert!(!page.contains("//"), "the page names another host: {page}");
    let links: Vec<_> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| page.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap()))
        .collect();
    assert!(links.len() >= 5, "{links:?}");
    for link in links {
        let (status, _, _, body) = get(&format!("/docs/{}", link.trim_start_matches("./"))).await;
        assert!(status == 200 && (link.ends_with("png") || body.len() > 100), "{link}: {status}");
    }
    let (.., script) = get("/docs/swagger-initializer.js").await;
    assert!(script.contains("\"/api/v1/openapi.json\""), "{script}");
    let (status, _, _, _) = get("/docs/../../etc/passwd").await;
    assert_eq!(status, 404);
    let (status, _, _, _) = get("/docs/nothing.js").await;
    assert_eq!(status, 404);

    let (status, _, kind, text) = get("/api/v1/openapi.json").await;
    assert_eq!((status, &*kind), (200, "application/json"));
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["info"]["title"], "oriva-hub");

    // A browser that cannot reach any other host shows the whole document.
    let url = format!("http://{}/docs", hub.addr);
    let shown = tokio::task::spawn_blocking(move || Browser::rendered(&url)).await.unwrap();
    for path in document["paths"].as_object().unwrap().keys() {
        assert!(shown.contains(&format!("data-path=\"{path}\"")), "{path} in {shown}");
    }
}

/// The ids that the fuzzer uses, under the names in `schemathesis.toml`.
async fn furnish(hub: &TestHub, app: &App, receiver: &Receiver) -> Vec<(&'static str, String)> {
    hub.app("other").await;
    hub.app("deleted").await;
    let text = |value: &Value| value.as_str().expect("an id").to_owned();
    let webhook = app.webhook(&receiver.url("/ok"), &["**"]).await;
    let deleted_webhook = app.webhook(&receiver.url("/gone"), &["transaction.*"]).await;
    let notification = app.notify(&App::notification("ada", "Lunch?")).await;
    let deleted_notification = app.notify(&App::notification("ada", "Dinner?")).await;
    let mut delivery = None;
    eventually("a delivery", async || {
        delivery = app.deliveries(&webhook["webhook_id"], "?status=succeeded").await.into_iter().next();
        delivery.is_some()
    })
    .await;
    let since = json!({"since": "2026-01-01T00:00:00Z"});
    app.webhook_request("POST", &webhook["webhook_id"], "/recover", Some(since)).await;
    let keys = hub.admin("GET", "/api/v1/admin/apps/other/keys", None).await;
    vec![
        ("APP_KEY", app.key.clone()),
        ("ADMIN_KEY", ADMIN_KEY.to_owned()),
        ("RECEIVER", receiver.url("/ok")),
        ("NOTIFICATION_ID", notification),
        ("DELETED_NOTIFICATION_ID", deleted_notification),
        ("WEBHOOK_ID", text(&webhook["webhook_id"])),
        ("DELETED_WEBHOOK_ID", text(&deleted_webhook["webhook_id"])),
        ("DELIVERY_ID", text(&delivery.expect("a delivery")["delivery_id"])),
        ("KEY_ID", text(&keys.body["keys"][0]["key_id"])),
    ]
}

/// No 5xx, and no status, header or shape that the document does not have. The hub accepts what is valid by the
/// document, and
/// refused.
async fn a_fuzzer_finds_the_hub_as_documented(backend: Backend) {
    let fuzzer = std::env::var("ORIVA_TEST_SCHEMATHESIS").expect("ORIVA_TEST_SCHEMATHESIS: use ./scripts/test");
    let hub = TestHub::start_with(backend, |config| {
        config.webhooks.allow_http = true;
        config.webhooks.timeout_seconds = 2;
    })
    .await;
    let app = hub.app("work-buddy").await;
    let receiver = Receiver::start().await;
    let variables = furnish(&hub, &app, &receiver).await;

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/openapi");
    let scratch = tempfile::TempDir::new().unwrap();
    // It writes beside what it reads.
    for file in ["schemathesis.toml", "hooks.py"] {
        std::fs::copy(folder.join(file), scratch.path().join(file)).unwrap();
    }
    let mut command = Command::new(fuzzer);
    command
        .args(["--config-file", "schemathesis.toml"])
        .args(["run", &format!("http://{}/api/v1/openapi.json", hub.addr)])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "30", "--no-color"])
        .args(["--continue-on-failure", "--generation-database", "none", "--seed", "1"])
        .envs(variables)
        .current_dir(scratch.path());
    let output = tokio::task::spawn_blocking(move || command.output().expect("schemathesis runs")).await.unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
    let tested = report.split("Tested: ").nth(1).and_then(|rest| rest.lines().next());
    assert!(tested.and_then(|count| count.trim().parse().ok()).is_some_and(|count: u32| count >= 37), "{report}");
}

/// Clients in three languages, made by public generators from the document in the repository: they compile, publish a batch
/// and read its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_clients_publish_a_batch_and_read_its_answer() {
    let hub = TestHub::start(Backend::Sqlite).await;
    let app = hub.app("work-buddy").await;
    let scratch = tempfile::TempDir::new().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let run = async |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(scratch.path());
        command.env("URL", format!("http://{}", hub.addr)).env("APP", "work-buddy").env("KEY", &app.key);
        let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    let generator = std::env::var("ORIVA_TEST_GENERATOR").expect("ORIVA_TEST_GENERATOR: use ./scripts/test");
    let (document, folder) = (root.join("docs/openapi.yml"), scratch.path().to_str().unwrap());
    let build = root.join("tests/it/openapi/clients/build");
    run(build.to_str().unwrap(), &[document.to_str().unwrap(), folder]).await;
    let classpath = format!("classes:{generator}");
    for (offset, program, arguments) in [
        (1, "java", &["-cp", &*classpath, "Main"][..]),
        (2, "./go-client", &[]),
        (3, "node", &["typescript/out/main.js"]),
    ] {
        let said = run(program, arguments).await;
        assert_eq!(said, format!("published at {offset}\nrejected validation_failed event_type\n"), "{program}");
    }
}

/// Each route is counted in the rate-limit class that the document names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_class_of_rate_limit_is_the_documented_one() {
    let hub = TestHub::start_with(Backend::Sqlite, |config| config.rate_limits.enabled = true).await;
    let app = hub.app("work-buddy").await;
    let nobody = "01900000-0000-7000-8000-000000000000";
    let document = serde_json::to_value(openapi::document()).unwrap();
    let mut seen = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let path = path.replace("{app_id}", "work-buddy").replace("{user_id}", "ada");
            let path = ["{notification_id}", "{webhook_id}", "{delivery_id}", "{key_id}"]
                .iter()
                .fold(path, |path, name| path.replace(name, nobody));
            let request =
                client().request(method.to_uppercase().parse().unwrap(), format!("http://{}{path}", hub.addr));
            let answer = request.bearer_auth(&app.key).json(&json!({})).send().await.unwrap();
            let policy = answer.headers().get("ratelimit-policy").map(|policy| policy.to_str().unwrap().to_owned());
            let consumed = policy.as_deref().and_then(|policy| policy.split('"').nth(1));
            assert_eq!(operation["x-rate-limit-class"].as_str(), consumed, "{method} {path}");
            seen += usize::from(consumed.is_some());
        }
    }
    assert!(seen >= 20, "{seen}");
}
