//! `docs/asyncapi.json` against the frames that the hub sends.

use oriva_hub_actors::protocol::{AfterClose, Close};
use serde_json::{Value, json};

use crate::harness::{App, Backend, Receiver, TestHub, eventually};

fn document() -> Value {
    serde_json::from_str(include_str!("../../docs/asyncapi.json")).unwrap()
}

/// Validates a value against the part of JSON Schema that the document uses.
fn check(schema: &Value, value: &Value, at: &str) {
    if let Some(expected) = schema.get("const") {
        assert_eq!(value, expected, "{at}");
    }
    if let Some(choices) = schema.get("enum") {
        assert!(choices.as_array().unwrap().contains(value), "{at}: {value}");
    }
    let is = |name: &str| match name {
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        other => panic!("{at}: the document speaks of {other}"),
    };
    match schema.get("type") {
        Some(Value::String(name)) => assert!(is(name), "{at}: {value} is no {name}"),
        Some(Value::Array(names)) => assert!(names.iter().any(|name| is(name.as_str().unwrap())), "{at}: {value}"),
        _ => {}
    }
    if let Some(minimum) = schema.get("minimum") {
        assert!(value.as_u64() >= minimum.as_u64(), "{at}: {value}");
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        assert!(value.get(name.as_str().unwrap()).is_some(), "{at}: {name} is missing in {value}");
    }
    let Some(properties) = schema.get("properties") else { return };
    for (name, value) in value.as_object().unwrap() {
        match properties.get(name) {
            Some(schema) => check(schema, value, &format!("{at}.{name}")),
            None => assert!(schema["additionalProperties"] != json!(false), "{at}: the document has no {name}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_frame_and_every_delivery_is_as_documented() {
    let hub = TestHub::start_with(Backend::Sqlite, |config| config.webhooks.allow_http = true).await;
    let app = hub.app("work-buddy").await;
    let receiver = Receiver::start().await;
    app.webhook(&receiver.url("/ok"), &["**"]).await;
    let gone = app.webhook(&receiver.url("/status/410"), &["transaction.*"]).await;

    let document = document();
    let mut seen = Vec::new();
    let mut hold = |frame: &Value| {
        let name = frame["type"].as_str().unwrap().replace('.', "_");
        check(&document["components"]["messages"][&name]["payload"], frame, &name);
        seen.push(name);
    };
    let mut socket = app.connect("alice").await;
    hold(&socket.welcome.clone());
    for request in [
        json!({"action": "subscribe", "event_types": ["**", "order.*"], "after": 0, "after_broadcast": 0, "id": "1"}),
        json!({"action": "ping", "id": 2}),
        json!({"action": "nonsense", "id": "3"}),
        json!({"action": "refresh", "token": app.token("alice").await, "id": "4"}),
        json!({"action": "unsubscribe", "event_types": ["notification.*"], "id": "5"}),
    ] {
        if request["action"] != "nonsense" {
            let payload = &document["components"]["messages"][request["action"].as_str().unwrap()]["payload"];
            check(payload, &request, "a request");
        }
        socket.send(request.clone()).await;
        hold(&socket.frame().await);
        if request["action"] == "subscribe" {
            hold(&socket.frame().await);
        }
    }
    app.publish("alice", 1).await;
    hold(&socket.frame().await);
    app.broadcast("b").await;
    hold(&socket.frame().await);

    let mut server = app.connect_app().await;
    hold(&server.welcome.clone());
    let mut event = App::event("bob", 2);
    event["event_category"] = json!("transaction");
    assert_eq!(app.post(&event).await.status, 200);
    let disabled = server.frame().await;
    assert_eq!(disabled["webhook_id"], gone["webhook_id"]);
    hold(&disabled);

    let from_client = ["subscribe", "unsubscribe", "refresh", "ping"];
    for (name, _) in document["channels"]["stream"]["messages"].as_object().unwrap() {
        assert!(from_client.contains(&name.as_str()) || seen.contains(name), "{name} was never seen");
    }

    eventually("three deliveries", async || receiver.received_at("/ok").len() >= 3).await;
    let delivery = &document["components"]["messages"]["delivery"];
    for request in receiver.received_at("/ok") {
        check(&delivery["payload"], &request.body, "delivery");
        for name in delivery["headers"]["required"].as_array().unwrap() {
            assert!(!request.header(name.as_str().unwrap()).is_empty(), "{name}");
        }
    }
}

#[test]
fn the_close_codes_are_those_of_the_table() {
    let document = document();
    let codes = document["channels"]["stream"]["x-close-codes"].as_object().unwrap();
    assert_eq!(codes.len(), Close::ALL.len());
    for close in Close::ALL {
        let then = match close.then() {
            AfterClose::Reconnect => "reconnect",
            AfterClose::ReconnectSlowly => "reconnect slowly: after 15 s, doubling to 5 min",
            AfterClose::RefreshAndReconnect => "refresh and reconnect",
            AfterClose::Stop => "stop",
        };
        assert_eq!(codes[&close.code().to_string()]["then"], then, "{}", close.code());
    }
}
