//! Sockets that connect, and sockets that are idle.

use crate::{
    Failure,
    measure::{Latency, sum},
    report::Report,
    run::Run,
};

pub async fn idle(mut run: Run<'_>) -> Result<Report, Failure> {
    let reserved = super::reserved(&run).await?;
    let before = sum(&run.args.pid);
    let (fleet, _) = run.open(reserved).await?;
    let mark = run.warm_up().await;
    run.measure().await;
    if let (Some(before), Some(after)) = (before, sum(&run.args.pid)) {
        let kib = after.memory_kib.saturating_sub(before.memory_kib) as f64;
        run.figure("memory a connection", kib / run.args.connections as f64, "KiB");
    }
    let report = run.report(mark);
    fleet.close().await;
    Ok(report)
}

pub async fn storm(mut run: Run<'_>) -> Result<Report, Failure> {
    let reserved = super::reserved(&run).await?;
    let count = reserved.len() as f64;
    let mark = run.mark();
    let begun = std::time::Instant::now();
    let (fleet, took) = run.open(reserved).await?;
    run.figure("connects", count / begun.elapsed().as_secs_f64(), "/s");
    run.latency_figures("connect and subscribe", Latency::from_histogram(&took));
    let report = run.report(mark);
    fleet.close().await;
    Ok(report)
}
