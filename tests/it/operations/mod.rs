//! What operators do to a hub, and what goes wrong around it.

mod commands;
mod database;
mod embedded;
mod helm;
mod migrations;
mod stop;
mod supervision;

use std::net::SocketAddr;

use crate::harness::callers::client;

/// The status and the failing part of `/readyz`; status 0 where nobody answers.
async fn readiness(addr: SocketAddr) -> (u16, String) {
    let Ok(answer) = client().get(format!("http://{addr}/readyz")).send().await else { return (0, String::new()) };
    let status = answer.status().as_u16();
    let probe: serde_json::Value = answer.json().await.unwrap_or_default();
    (status, probe["failing"].as_str().unwrap_or("").to_owned())
}
