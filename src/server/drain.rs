//! How a node stops: sockets are closed spread over a window, and requests in flight finish.

use std::time::Duration;

use actix_server::ServerHandle;
use tokio::time::Instant;

use crate::hub::Hub;

/// Rate at which a draining hub closes its sockets: few sockets need less than the whole window.
const CLOSES_PER_SECOND: f64 = 200.0;
/// Share of the window in which sockets are closed. The rest is for their clients' answers and for requests in flight.
const DRAIN_SHARE: f64 = 0.8;
/// Time for the last answers to reach the kernel.
const LAST_WRITES: Duration = Duration::from_millis(200);

/// Closes the sockets, spread so that their clients do not all come to the next node at once.
pub(super) async fn drain(hub: &Hub, window: Duration) {
    let sockets = hub.realtime().open_sockets();
    let needed = Duration::from_secs_f64(sockets as f64 / CLOSES_PER_SECOND);
    hub.drain(needed.min(window.mul_f64(DRAIN_SHARE)));
    let end = Instant::now() + window;
    while (hub.realtime().open_sockets() > 0 || hub.deliveries_in_flight().await > 0) && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends when no request is being answered any more. Connections that are merely kept alive are not waited for.
pub(super) async fn stop_http(handle: &ServerHandle, hub: &Hub, window: Duration) {
    let end = Instant::now() + window;
    while hub.requests_in_flight() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The last answers are on their way to the kernel.
    tokio::time::sleep(LAST_WRITES).await;
    handle.stop(false).await;
}
