//! Everyday use: apps publish and notify, users read their feed and dismiss, and every device gets all events.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    Failure,
    http::{Connection, request},
    measure::{Counters, Latency},
    report::Report,
    run::Run,
    target::Target,
};

/// The requests, and how many of ten are of each kind.
const OPERATIONS: [(&str, usize); 4] = [("publish", 4), ("notify", 2), ("feed", 2), ("dismiss", 2)];

pub async fn run(mut run: Run<'_>) -> Result<Report, Failure> {
    let reserved = super::reserved(&run).await?;
    let users = run.args.connections.div_ceil(run.args.devices.max(1));
    let tokens: Arc<[String]> = reserved.iter().take(users).map(|(token, _)| token.clone()).collect();
    let (fleet, _) = run.open(reserved).await?;
    let (stop, tallies) = (Arc::<AtomicBool>::default(), OPERATIONS.map(|_| Arc::<Counters>::default()));
    let lanes: Vec<JoinHandle<Result<(), Failure>>> = (0..run.args.publishers)
        .map(|lane| {
            let (target, tokens, stop) = (run.target.clone(), tokens.clone(), stop.clone());
            let (all, tallies) = (run.counters.clone(), tallies.clone());
            tokio::spawn(async move { one_lane(lane, &target, &tokens, &stop, &all, &tallies).await })
        })
        .collect();
    let mark = run.warm_up().await;
    tallies.iter().for_each(|counters| counters.reset());
    run.measure().await;
    stop.store(true, Relaxed);
    for lane in lanes {
        lane.await.map_err(|error| Failure::Answer(error.to_string()))??;
    }
    for ((name, _), counters) in OPERATIONS.iter().zip(&tallies) {
        let Latency { count, p50_us, p99_us, .. } = counters.totals().answer;
        run.figure(&format!("{name}: answers"), count as f64 / run.args.duration as f64, "/s");
        run.figure(&format!("{name}: p50"), p50_us as f64 / 1000.0, "ms");
        run.figure(&format!("{name}: p99"), p99_us as f64 / 1000.0, "ms");
    }
    let report = run.report(mark);
    fleet.close().await;
    Ok(report)
}

async fn one_lane(
    lane: usize,
    target: &Target,
    tokens: &[String],
    stop: &AtomicBool,
    all: &Counters,
    tallies: &[Arc<Counters>; 4],
) -> Result<(), Failure> {
    let mut connection = Connection::open(target.addr(lane)).await?;
    let turns: Vec<usize> =
        OPERATIONS.iter().enumerate().flat_map(|(index, (_, often))| std::iter::repeat_n(index, *often)).collect();
    let mut open: Vec<(usize, String)> = Vec::new();
    for n in 0_usize.. {
        if stop.load(Relaxed) {
            break;
        }
        let operation = turns[(n * 7 + lane) % turns.len()];
        let user = (n * 31 + lane * 17) % tokens.len();
        let begun = all.now_us();
        let (host, key) = (&target.host, &target.key);
        let request = match OPERATIONS[operation].0 {
            "publish" => {
                let body = json!({
                    "user_id": Target::user(user), "event_category": "session", "event_type": "load",
                    "entity_type": "bench", "entity_id": n.to_string(), "event_data": {"due": begun}
                });
                request("POST", &target.path("/events"), host, key, Some(&body))
            }
            "notify" => {
                let body = json!({"user_id": Target::user(user), "title": "Load", "body": "From the load tool"});
                request("POST", &target.path("/notifications"), host, key, Some(&body))
            }
            "feed" => {
                let path = format!("/api/v1/users/{}/notifications?limit=20", Target::user(user));
                request("GET", &path, host, &tokens[user], None)
            }
            _ => {
                let Some((user, id)) = open.pop() else { continue };
                let path = format!("/api/v1/notifications/{id}");
                request("PATCH", &path, host, &tokens[user], Some(&json!({"status": "dismissed"})))
            }
        };
        let answer = connection.send(&request).await?;
        let ok = (200..300).contains(&answer.status);
        if ok && OPERATIONS[operation].0 == "notify" {
            let id = answer.json()?["notification_id"].as_str().unwrap_or_default().to_owned();
            open.push((user, id));
        }
        let took = all.now_us().saturating_sub(begun);
        all.answered(ok, took);
        tallies[operation].answered(ok, took);
    }
    Ok(())
}
