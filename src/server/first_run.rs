//! A first start on an empty embedded store: an app to try, and commands to paste (contract §9).

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use oriva_hub_actors::model::AppId;

use crate::{
    config::Config,
    hub::{Hub, HubError},
    store::{Audit, NewApp},
};

/// The address at which a hub that listens on `addr` is reached from its own machine.
fn to_reach(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// Makes the platform app `demo` where there is no app at all, and prints its key this once.
pub(super) async fn greet(hub: &Hub, config: &Config, addr: SocketAddr) -> Result<(), HubError> {
    if !hub.apps().list().await?.is_empty() {
        return Ok(());
    }
    let Ok(id) = AppId::parse("demo") else { return Ok(()) };
    let app = NewApp { id, name: "Demo".to_owned(), icon_url: None, is_platform: true, limits: Default::default() };
    let (_, key) = hub.apps().create(app, &Audit { actor: "first-run".to_owned(), ip: None }).await?;
    let key = key.expose();
    let program = std::env::current_exe().map_or_else(|_| "oriva-hub".to_owned(), |path| path.display().to_string());
    let scheme = if config.server.tls.cert.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", to_reach(addr));
    let store = &config.database.url;
    let printed = writeln!(
        std::io::stdout(),
        r#"
  oriva-hub is new here: {store} is empty, so it made the app "demo".

  Its API key, shown this once:

      {key}

  1. In a second terminal, watch the app's stream:

      {program} watch --url {url} --token {key} '**'

  2. In a third, publish an event and see it arrive:

      {program} publish --url {url} --token {key} --app demo \
        --user alice --type session.started --entity session:s-1
"#
    );
    if let Err(error) = printed {
        tracing::error!(%error, "the first app's key could not be printed: make another with oriva-hub key create demo");
    }
    Ok(())
}
