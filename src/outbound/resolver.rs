//! Names to addresses for webhooks: what is answered is what is dialled, so a name that changes between check and
//! connection changes nothing.

use std::{net::IpAddr, sync::Arc};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Resolves by the system; refuses a name of which any address is closed.
pub(super) struct GuardedResolver {
    permits: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
}

/// A name leads where webhooks may not go.
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
