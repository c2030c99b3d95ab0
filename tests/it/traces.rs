//! Traces: one request is followed from its caller through two nodes to a socket and a webhook.

use std::collections::HashMap;

use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use oriva_hub_actors::model::TraceParent;
use prost::Message as _;

use crate::harness::{
    App, Backend, Database, HubProcess, Receiver, RedisServer, Socket, TestHub, eventually, process::create_app,
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn publish_traced(app: &App, entity: &str) {
    let event = App::event("alice", entity);
    let answer = app.request("POST", "/events").header("traceparent", PARENT).json(&event).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// What a collector was sent.
fn spans(collector: &Receiver) -> Vec<Span> {
    let requests = collector.received_at("/v1/traces");
    let requests = requests.iter().map(|request| ExportTraceServiceRequest::decode(&*request.raw).expect("OTLP"));
    let resources = requests.flat_map(|request| request.resource_spans);
    resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
}

async fn a_webhook_is_part_of_the_trace_of_what_caused_it(backend: Backend) {
    let hub = TestHub::start_with(backend, |config| config.webhooks.allow_http = true).await;
    let app = hub.app("work-buddy").await;
    let receiver = Receiver::start().await;
    app.webhook(&receiver.url("/ok"), &["**"]).await;

    publish_traced(&app, "traced").await;
    let first = &receiver.wait_for("/ok", 1).await[0];
    // This node exports nothing, but passes the caller's trace on.
    assert_eq!(first.header("traceparent"), PARENT);

    app.publish("alice", "untraced").await;
    let second = &receiver.wait_for("/ok", 2).await[1];
    assert_eq!((second.header("traceparent"), second.body["entity_id"].as_str()), ("", Some("untraced")));

    // It is kept with the event.
    let events = app.events("").await;
    assert_eq!(events.body["total"], 2);
    assert!(events.body["events"][0].get("traceparent").is_none(), "the event's shape is fixed");
}
crate::on_both_stores!(a_webhook_is_part_of_the_trace_of_what_caused_it);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_leads_from_the_request_over_the_bus_to_socket_and_webhook() {
    let (database, redis, collector) =
        (Database::new(Backend::Postgres).await, RedisServer::start().await, Receiver::start().await);
    let (endpoint, redis_url) = (collector.url("/"), redis.url());
    let env = [
        ("ORIVA_HUB__TELEMETRY__OTLP_ENDPOINT", endpoint.as_str()),
        ("REDIS_URL", redis_url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("ORIVA_HUB__WEBHOOKS__ALLOW_HTTP", "true"),
    ];
    let (near, far) = (HubProcess::start(&database, &env).await, HubProcess::start(&database, &env).await);
    let app = create_app(&database, near.addr, "work-buddy", false);
    let receiver = Receiver::start().await;
    app.webhook(&receiver.url("/ok/secret"), &["**"]).await;
    let mut socket = Socket::open(far.addr, &app.token("alice").await).await.unwrap();
    socket.subscribe(&["**"]).await;

    publish_traced(&app, "traced").await;
    assert_eq!(socket.frame().await["entity_id"], "traced");
    let delivery = receiver.wait_for("/ok/secret", 1).await.remove(0);

    let parent = TraceParent::parse(PARENT).unwrap();
    let of_trace = || spans(&collector).into_iter().filter(|span| span.trace_id == parent.trace_id).collect::<Vec<_>>();
    let names = ["POST /api/v1/apps/{app_id}/events", "transaction", "deliver to sockets", "webhook attempt"];
    eventually("four spans", async || names.iter().all(|name| of_trace().iter().any(|span| span.name == *name))).await;
    let all = of_trace();
    let found: HashMap<&str, &Span> = all.iter().map(|span| (span.name.as_str(), span)).collect();
    let [request, transaction, sockets, attempt] = names.map(|name| found[name]);
    assert_eq!(request.parent_span_id, parent.span_id);
    assert_eq!(transaction.parent_span_id, request.span_id);
    assert_eq!(sockets.parent_span_id, transaction.span_id, "over the bus too");
    assert_eq!(attempt.parent_span_id, transaction.span_id);
    assert_eq!(all.len(), 4, "{all:?}");

    let passed_on = TraceParent::parse(delivery.header("traceparent")).expect("a traceparent");
    assert_eq!((passed_on.trace_id, passed_on.span_id.to_vec()), (parent.trace_id, attempt.span_id.clone()));
    // A webhook's URL may hold secrets in its path and query, and payloads are private.
    let told = format!("{all:?}");
    assert!(!told.contains("secret") && !told.contains("traced"), "{told}");

    near.signal("-TERM");
    far.signal("-TERM");
    assert_eq!((near.exit_code().await, far.exit_code().await), (Some(0), Some(0)));
    // Health probes have no trace.
    assert!(spans(&collector).iter().all(|span| !span.name.contains("healthz") && !span.name.contains("readyz")));
}

/// A hub whose collector is down works as usual.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_collector_a_hub_serves_all_the_same() {
    let database = Database::new(Backend::Sqlite).await;
    let env = [("ORIVA_HUB__TELEMETRY__OTLP_ENDPOINT", "http://127.0.0.1:9"), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let hub = HubProcess::start(&database, &env).await;
    let app = create_app(&database, hub.addr, "work-buddy", false);
    for number in 0..50 {
        app.publish("alice", number).await;
    }
    hub.signal("-TERM");
    assert_eq!(hub.exit_code().await, Some(0));
}
