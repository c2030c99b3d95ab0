//! How a node stops: it says so while it still serves, then takes no new work, closes its sockets spread over a window, and
//! lets requests in flight finish.

use std::time::Duration;

use tokio::time::Instant;

use crate::hub::Hub;

/// Rate at which a draining hub closes its sockets: few sockets need less than the whole window.
const CLOSES_PER_SECOND: f64 = 200.0;
/// Share of the window in which sockets are closed. The rest is for their clients' answers and for requests in flight.
const DRAIN_SHARE: f64 = 0.8;
/// Time for the last answers to reach the kernel.
const LAST_WRITES: Duration = Duration::from_millis(200);
/// Behind a balancer, time for connections in use to end with their next answer.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// How long a stop may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    /// For balancers to notice, while everything is served. Zero where there is none.
    pub notice: Duration,
    /// For sockets and requests.
    pub drain: Duration,
}

/// Says that the node will stop, and goes on serving.
pub(super) async fn give_notice(hub: &Hub, windows: Windows) {
    hub.announce_stop();
    tokio::time::sleep(windows.notice).await;
}

/// Closes the sockets, spread so that their clients do not all come to the next node at once. Ends when nothing is left to
/// finish, at most after the window. Connections that are merely kept alive are not waited for.
pub(super) async fn drain(hub: &Hub, windows: Windows) {
    let sockets = hub.realtime().open_sockets();
    let needed = Duration::from_secs_f64(sockets as f64 / CLOSES_PER_SECOND);
    hub.drain(needed.min(windows.drain.mul_f64(DRAIN_SHARE)));
    let (began, end) = (Instant::now(), Instant::now() + windows.drain);
    let least = LAST_REQUESTS.min(windows.notice).min(windows.drain);
    while Instant::now() < end
        && (began.elapsed() < least
            || hub.realtime().open_sockets() > 0
            || hub.requests_in_flight() > 0
            || hub.deliveries_in_flight().await > 0)
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The last answers are on their way to the kernel.
    tokio::time::sleep(LAST_WRITES).await;
}
