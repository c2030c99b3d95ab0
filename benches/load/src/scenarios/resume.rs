//! A deploy or a network failure: every socket closes, events go on, and all clients reconnect at once with `after`.

use std::time::{Duration, Instant};

use crate::{
    Failure,
    http::{Connection, request_with},
    measure::Latency,
    report::Report,
    run::Run,
    target::Target,
};

/// Events that each user misses.
const MISSED: usize = 5;

pub async fn run(mut run: Run<'_>) -> Result<Report, Failure> {
    let reserved = super::reserved(&run).await?;
    let users = run.args.connections.div_ceil(run.args.devices.max(1));
    let (fleet, _) = run.open(reserved.clone()).await?;
    let seen = fleet.close().await;
    let mut connection = Connection::open(run.target.addr(0)).await?;
    let pad = "x".repeat(run.args.payload);
    for round in 0..MISSED {
        for first in (0..users).step_by(500) {
            let events: Vec<String> = (first..users.min(first + 500))
                .map(|user| {
                    format!(
                        r#"{{"user_id":"{}","event_category":"session","event_type":"load","entity_type":"bench","entity_id":"{round}","event_data":{{"pad":"{pad}"}}}}"#,
                        Target::user(user)
                    )
                })
                .collect();
            let body = format!(r#"{{"events":[{}]}}"#, events.join(","));
            let path = run.target.path("/events/batch");
            let request = request_with("POST", &path, &run.target.host, &run.target.key, &body);
            connection.send(&request).await?.json()?;
        }
    }
    let wanted = (run.args.connections * MISSED) as u64;
    run.counters.reset();
    let (mark, begun) = (run.mark(), Instant::now());
    let back = reserved.into_iter().zip(seen).map(|((token, _), last)| (token, Some(last))).collect();
    let (fleet, took) = run.open(back).await?;
    let connected = begun.elapsed();
    while run.counters.count_delivered() < wanted && begun.elapsed() < Duration::from_secs(120) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let count = run.args.connections as f64;
    run.figure("back and subscribed", count / connected.as_secs_f64(), "sockets/s");
    run.figure("back with all they missed", count / begun.elapsed().as_secs_f64(), "sockets/s");
    run.figure("missed events still missing", (wanted - run.counters.count_delivered().min(wanted)) as f64, "");
    run.latency_figures("connect and subscribe", Latency::from_histogram(&took));
    let report = run.report(mark);
    fleet.close().await;
    Ok(report)
}
