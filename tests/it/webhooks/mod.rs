//! Webhooks, from registration to recovery (contract §7).

mod deliver;
mod manage;
mod network;
mod repair;

use crate::harness::{App, Backend, Receiver, TestHub};

/// A hub process that may send to loopback, with a short timeout for attempts.
pub(crate) const PROCESS: [(&str, &str); 2] =
    [("ORIVA_HUB__WEBHOOKS__ALLOW_HTTP", "true"), ("ORIVA_HUB__WEBHOOKS__TIMEOUT_SECONDS", "2")];

pub(crate) async fn start(backend: Backend) -> (TestHub, App, Receiver) {
    start_with(backend, |_| {}).await
}

pub(crate) async fn start_with(
    backend: Backend,
    change: impl FnOnce(&mut oriva_hub::config::Config),
) -> (TestHub, App, Receiver) {
    let hub = TestHub::start_with(backend, |config| {
        config.webhooks.allow_http = true;
        change(config);
    })
    .await;
    let app = hub.app("work-buddy").await;
    (hub, app, Receiver::start().await)
}
