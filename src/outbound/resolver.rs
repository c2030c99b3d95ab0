//! Resolves names for webhooks. The addresses that were checked are those that are dialled, so a name that changes in
//! between has no effect. The system's own resolver would hold a thread for each name whose server does not answer.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

/// How long one server has for its answer, …
const ANSWER: Duration = Duration::from_millis(1500);
/// … and all of them together.
const RESOLVED: Duration = Duration::from_secs(4);
/// How often a server is asked.
const TRIES: usize = 2;
/// Names in the cache.
const CACHED: u64 = 4096;
/// How long an address is believed, whatever its name says.
const BELIEVED: Duration = Duration::from_secs(300);
/// How long it is believed that there is none.
const DISBELIEVED: Duration = Duration::from_secs(10);

/// Resolves names, and refuses one if any of its addresses is closed.
#[derive(Clone)]
pub(super) struct GuardedResolver {
    names: TokioResolver,
    permits: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
}

/// [`Forbidden`] or [`Unresolved`].
pub(super) type ResolveError = Box<dyn std::error::Error + Send + Sync>;

/// A name resolves to a closed address.
#[derive(Debug, thiserror::Error)]
#[error("the address is not allowed: {0}")]
pub(super) struct Forbidden(pub String);

/// A name has no address, or its servers do not say.
#[derive(Debug, thiserror::Error)]
#[error("the name {0} was not resolved: {1}")]
pub(super) struct Unresolved(String, String);

/// A resolver with a cache, which asks `servers`, or those of `/etc/resolv.conf` if there are none here.
///
/// # Errors
/// Where that file cannot be read.
pub(super) fn names(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = servers.iter().map(name_server).collect();
        let config = ResolverConfig::from_name_servers(servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.timeout = ANSWER;
    options.attempts = TRIES;
    options.cache_size = CACHED;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.positive_max_ttl = Some(BELIEVED);
    options.negative_max_ttl = Some(DISBELIEVED);
    builder.build()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

impl GuardedResolver {
    pub(super) fn new(names: TokioResolver, permits: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        Self { names, permits: Arc::new(permits) }
    }
}

impl Service<Name> for GuardedResolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ResolveError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (names, permits) = (self.names.clone(), self.permits.clone());
        Box::pin(async move {
            let name = name.as_str();
            let unresolved = |why: String| ResolveError::from(Unresolved(name.to_owned(), why));
            let found = tokio::time::timeout(RESOLVED, names.lookup_ip(name)).await;
            let found = found.map_err(|_| unresolved("its servers do not answer".to_owned()))?;
            let found = found.map_err(|error| unresolved(error.to_string()))?;
            let addresses: Vec<IpAddr> = found.iter().collect();
            if let Some(closed) = addresses.iter().find(|address| !permits(**address)) {
                return Err(Forbidden(format!("{name} is {closed}")).into());
            }
            // The connector puts the port in.
            let addresses: Vec<_> = addresses.into_iter().map(|address| SocketAddr::new(address, 0)).collect();
            Ok(addresses.into_iter())
        })
    }
}
