//! Resolves names for webhooks. The addresses that were checked are those that are dialled, so a name that changes in
//! between has no effect.

use std::{net::IpAddr, sync::Arc};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Uses the system's resolver. Refuses a name if any of its addresses is closed.
pub(super) struct GuardedResolver {
    permits: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
}

/// A name resolves to a closed address.
#[derive(Debug, thiserror::Error)]
#[error("the address is not allowed: {0}")]
pub(super) struct Forbidden(pub String);

impl GuardedResolver {
    pub(super) fn new(permits: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        Self { permits: Arc::new(permits) }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let permits = self.permits.clone();
        Box::pin(async move {
            let addresses: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if let Some(closed) = addresses.iter().find(|address| !permits(address.ip())) {
                return Err(Forbidden(format!("{} is {}", name.as_str(), closed.ip())).into());
            }
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}
