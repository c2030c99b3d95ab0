//! Events to sockets: of one user, of everybody, of an app, or of nobody.

use crate::{
    Failure,
    publish::{Publishers, Publishing},
    report::Report,
    run::Run,
    scenarios::Scenario,
};

/// Number of users that get events while nobody is connected.
const NOBODY: usize = 1000;

pub async fn run(mut run: Run<'_>) -> Result<Report, Failure> {
    let args = run.args;
    let (reserved, users) = match args.scenario {
        Scenario::Publish => (Vec::new(), NOBODY),
        Scenario::Firehose => (vec![(run.target.key.clone(), None); args.connections], NOBODY),
        Scenario::Broadcast => (super::reserved(&run).await?, 0),
        _ => (super::reserved(&run).await?, args.connections.div_ceil(args.devices.max(1))),
    };
    let (fleet, _) = run.open(reserved).await?;
    let publishing = Publishing { publishers: args.publishers, rate: args.rate, users, payload: args.payload };
    let publishers = Publishers::start(&run.target, publishing, &run.counters);
    let mark = run.warm_up().await;
    run.measure().await;
    publishers.stop().await?;
    let end = run.mark();
    if args.scenario != Scenario::Publish {
        // Wait for events that are still on their way.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    let report = run.report_between(mark, end);
    fleet.close().await;
    Ok(report)
}
