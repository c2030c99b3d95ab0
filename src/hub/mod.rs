//! What the product does, in the words of the contract. No HTTP, no SQL.

mod apps;
mod counts;
mod error;
mod events;
mod history;
mod idempotency;
mod urls;
mod next_expiry;
mod nodes;
mod notifications;
mod outbox;
mod plain_text;
mod webhooks;
mod delivery_receipts;
mod writer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use oriva_hub_actors::{Realtime, model::RevokedCredentials};
use tokio::sync::Notify;

pub use apps::{Apps, CreatedKey, display_name};
pub use error::{Field, HubError};
pub use events::{BatchItem, Listing, MAX_BATCH};
pub use history::StoreHistory;
pub use idempotency::{Idempotency, Written};
pub use urls::{action_url, image_url};
pub use next_expiry::NextExpiry;
pub use nodes::{NodeParts, UserPresence, Stats};
pub use notifications::{NotificationWithApp, Counts, Feed};
pub use outbox::{OutboxConfig, StoreOutbox, warning};
pub use plain_text::{Lines, plain_text};
pub use webhooks::{UrlRule, WebhookParts, WebhookWithSecret, NewWebhookRequest, reseal_secrets};
pub use delivery_receipts::ReceiptBuffer;
pub use writer::Writer;

use crate::{
    auth::Authenticator,
    limits::Limits,
    store::{Pool, Store},
};

/// The hub of one node: everything a handler may ask for, and nothing of how it is done.
pub struct Hub {
    store: Arc<dyn Store>,
    apps: Apps,
    auth: Arc<Authenticator>,
    limits: Limits,
    writer: Writer,
    online: Realtime,
    in_flight: idempotency::InFlight,
    counts: counts::CountCache,
    next_expiry: Arc<NextExpiry>,
    webhooks: WebhookParts,
    nodes: NodeParts,
    others: nodes::Others,
    /// A recovery was opened.
    recoveries: Notify,
    draining: AtomicBool,
    requests: Arc<AtomicUsize>,
}

/// A request that is being answered.
pub struct TrackedRequest(Arc<AtomicUsize>);

impl Drop for TrackedRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Hub {
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        auth: Arc<Authenticator>,
        limits: Limits,
        writer: Writer,
        online: Realtime,
        webhooks: WebhookParts,
        nodes: NodeParts,
    ) -> Self {
        Self {
            apps: Apps::new(store.clone()),
            store,
            auth,
            limits,
            writer,
            online,
            in_flight: idempotency::InFlight::default(),
            counts: counts::CountCache::default(),
            next_expiry: Arc::default(),
            webhooks,
            nodes,
            others: nodes::Others::default(),
            recoveries: Notify::new(),
            draining: AtomicBool::new(false),
            requests: Arc::default(),
        }
    }

    #[must_use]
    pub fn auth(&self) -> &Authenticator {
        &self.auth
    }

    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// When the expiry worker has to look again.
    #[must_use]
    pub fn next_expiry(&self) -> Arc<NextExpiry> {
        self.next_expiry.clone()
    }

    /// Who is online on this node.
    #[must_use]
    pub fn online(&self) -> &Realtime {
        &self.online
    }

    /// Forgets what was cached of credentials, and closes the sockets of those that are not good any more.
    pub fn credentials_changed(&self, refused: RevokedCredentials) {
        self.auth.forget();
        if !refused.is_empty() {
            self.online.close_revoked(&Arc::new(refused));
        }
    }

    /// Answers when every part that requests need does.
    ///
    /// # Errors
    /// The name of the part that does not.
    pub async fn ready(&self) -> Result<(), &'static str> {
        if self.is_draining() {
            return Err("draining");
        }
        match tokio::time::timeout(Duration::from_secs(2), self.store.ping()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err("store"),
        }
    }

    /// Takes no new work from now on, and closes every socket at a random moment within `over`.
    pub fn drain(&self, over: Duration) {
        self.draining.store(true, Ordering::SeqCst);
        self.online.drain(over);
        self.webhooks.actors.drain();
    }

    /// Notes a request until what is returned is dropped.
    #[must_use]
    pub fn track_request(&self) -> TrackedRequest {
        self.requests.fetch_add(1, Ordering::SeqCst);
        TrackedRequest(self.requests.clone())
    }

    /// A request was given up: what it waited for may have gone without a word.
    pub fn request_timed_out(&self) {
        self.store.suspect_connections();
    }

    /// Requests being answered.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Events that wait to be written.
    #[must_use]
    pub fn writer_queue(&self) -> usize {
        self.writer.waiting()
    }

    /// The store's connections.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.store.pool()
    }

    /// Deliveries to webhooks that are under way.
    pub async fn deliveries_in_flight(&self) -> usize {
        self.webhooks.actors.observe().await.in_flight
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }
}
