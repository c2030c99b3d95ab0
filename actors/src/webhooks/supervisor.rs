//! Starts an endpoint for each webhook with work, nudges it, lets it go when it is idle, and builds it anew after a panic.

use std::{collections::HashMap, sync::Arc};

use actix::{
    Actor, ActorFutureExt, Addr, Arbiter, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture,
    dev::ContextFutureSpawner,
};

use super::{
    WebhookConfig, WebhookContext,
    endpoint::{self, Endpoint},
};
use crate::{
    model::WebhookId,
    ports::{Deliveries, Unavailable, WebhookSender},
};

/// Messages that may wait for the supervisor; a nudge that does not fit is found by the sweep.
const MAILBOX: usize = 4096;

/// The handle to everything that is delivered by this node.
#[derive(Clone)]
pub struct Webhooks(Addr<Supervisor>);

/// What the supervisor looks like from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WebhooksState {
    pub endpoints: usize,
    /// Deliveries being sent or recorded.
    pub in_flight: usize,
}

impl Webhooks {
    /// Starts the supervisor on a thread of its own. Must be called within a running actix `System`.
    #[must_use]
    pub fn start(config: WebhookConfig, deliveries: Arc<dyn Deliveries>, sender: Arc<dyn WebhookSender>) -> Self {
        let context = Arc::new(WebhookContext { config, deliveries, sender });
        let arbiter = Arbiter::new().handle();
        Self(Supervisor::start_in_arbiter(&arbiter, move |ctx| Supervisor::new(context, ctx)))
    }

    /// The same on the caller's thread, whose clock a test may have paused.
    #[cfg(test)]
    pub(super) fn start_here(
        config: WebhookConfig,
        deliveries: Arc<dyn Deliveries>,
        sender: Arc<dyn WebhookSender>,
    ) -> Self {
        let context = Arc::new(WebhookContext { config, deliveries, sender });
        Self(Supervisor::create(|ctx| Supervisor::new(context, ctx)))
    }

    /// These have something due. A hint: never waits.
    pub fn nudge(&self, webhooks: Vec<WebhookId>) {
        if !webhooks.is_empty() {
            let _ = self.0.try_send(Nudged { webhooks });
        }
    }

    /// Claims nothing more. What is under way goes on.
    pub fn drain(&self) {
        self.0.do_send(Drain);
    }

    pub async fn observe(&self) -> WebhooksState {
        self.0.send(Observe).await.unwrap_or_default()
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Nudged {
    webhooks: Vec<WebhookId>,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Drain;

#[derive(Message)]
#[rtype(result = "WebhooksState")]
struct Observe;

/// An endpoint has nothing to do, as far as it knew after so many nudges.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Idle {
    pub webhook: WebhookId,
    pub serial: u64,
    pub nudges: u64,
}

/// An endpoint is over, by being let go or by its panic.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct EndpointEnded {
    pub webhook: WebhookId,
    pub serial: u64,
}

struct Child {
    addr: Addr<Endpoint>,
    serial: u64,
    nudges: u64,
}

pub(super) struct Supervisor {
    context: Arc<WebhookContext>,
    endpoints: HashMap<WebhookId, Child>,
    next_serial: u64,
    draining: bool,
    /// A look into the store is under way.
    is_sweeping: bool,
}

impl Supervisor {
    fn new(context: Arc<WebhookContext>, ctx: &mut Context<Self>) -> Self {
        ctx.set_mailbox_capacity(MAILBOX);
        Self { context, endpoints: HashMap::new(), next_serial: 0, draining: false, is_sweeping: false }
    }

    fn nudge(&mut self, webhook: WebhookId, ctx: &Context<Self>) {
        if self.draining {
            return;
        }
        let child = self.endpoints.entry(webhook).or_insert_with(|| {
            self.next_serial += 1;
            let addr = Endpoint::start(webhook, self.next_serial, self.context.clone(), ctx.address());
            Child { addr, serial: self.next_serial, nudges: 0 }
        });
        // One that does not fit is no loss: what waits in that mailbox is nudges.
        if child.addr.try_send(endpoint::Nudge).is_ok() {
            child.nudges += 1;
        }
    }

    /// Finds what nobody was nudged for: after a restart, and what another node left behind.
    fn sweep(&mut self, all: bool, ctx: &mut Context<Self>) {
        if self.draining || self.is_sweeping {
            return;
        }
        self.is_sweeping = true;
        let deliveries = self.context.deliveries.clone();
        async move {
            let mut webhooks = deliveries.free_leases().await?;
            if all {
                webhooks.extend(deliveries.with_work().await?);
            }
            Ok::<_, Unavailable>(webhooks)
        }
        .into_actor(self)
        .map(|found, supervisor, ctx| {
            supervisor.is_sweeping = false;
            for webhook in found.unwrap_or_default() {
                supervisor.nudge(webhook, ctx);
            }
        })
        .spawn(ctx);
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.sweep(true, ctx);
        ctx.run_interval(self.context.config.lease_check, |supervisor, ctx| supervisor.sweep(false, ctx));
        ctx.run_interval(self.context.config.sweep, |supervisor, ctx| supervisor.sweep(true, ctx));
    }
}

impl Handler<Nudged> for Supervisor {
    type Result = ();

    fn handle(&mut self, Nudged { webhooks }: Nudged, ctx: &mut Self::Context) {
        for webhook in webhooks {
            self.nudge(webhook, ctx);
        }
    }
}

impl Handler<Idle> for Supervisor {
    type Result = ();

    fn handle(&mut self, Idle { webhook, serial, nudges }: Idle, _: &mut Self::Context) {
        // A nudge that it had not seen yet is in its mailbox: then it stays.
        if self.endpoints.get(&webhook).is_some_and(|child| child.serial == serial && child.nudges == nudges) {
            self.endpoints.remove(&webhook);
        }
    }
}

impl Handler<EndpointEnded> for Supervisor {
    type Result = ();

    fn handle(&mut self, EndpointEnded { webhook, serial }: EndpointEnded, ctx: &mut Self::Context) {
        // One that was let go is not in the table any more.
        if self.endpoints.get(&webhook).is_some_and(|child| child.serial == serial) {
            self.endpoints.remove(&webhook);
            tracing::error!(webhook_id = %webhook, "endpoint ended unexpectedly; building it anew: report it with the panic above");
            self.nudge(webhook, ctx);
        }
    }
}

impl Handler<Drain> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Drain, _: &mut Self::Context) {
        self.draining = true;
        for child in self.endpoints.values() {
            // One message an endpoint, once.
            child.addr.do_send(endpoint::Drain);
        }
    }
}

impl Handler<Observe> for Supervisor {
    type Result = ResponseFuture<WebhooksState>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        let addrs: Vec<_> = self.endpoints.values().map(|child| child.addr.clone()).collect();
        Box::pin(async move {
            let mut state = WebhooksState { endpoints: addrs.len(), in_flight: 0 };
            for addr in addrs {
                state.in_flight += addr.send(endpoint::Observe).await.unwrap_or(0);
            }
            state
        })
    }
}
