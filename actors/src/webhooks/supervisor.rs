//! Starts an endpoint for each webhook with work, nudges it, lets it go when it is idle, and restarts it after a panic.

use std::{collections::HashMap, sync::Arc};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, MessageResult, ResponseFuture, WrapFuture,
    dev::ContextFutureSpawner,
};

use tokio::time::Instant;

use super::{
    breaker::{Breaker, BreakerState},
    context::WebhookContext,
    endpoint::Endpoint,
    messages::{
        Breakers, CloseBreaker, Drain, EndpointEvent, Nudge, NudgeAll, Observe, ObserveAll, Repaired, WebhooksState,
    },
};
use crate::{
    model::{OwnedWebhook, WebhookId},
    ports::Unavailable,
};

/// Messages that may wait in the mailbox. A nudge that does not fit is made up for by the sweep.
const MAILBOX: usize = 4096;

/// Makes the supervisor panic, to prove that it is rebuilt.
#[cfg(any(test, feature = "testing"))]
#[derive(actix::Message)]
#[rtype(result = "()")]
pub(super) struct PanicSupervisor;

/// An endpoint that runs.
struct Child {
    addr: Addr<Endpoint>,
    serial: u64,
    nudges: u64,
    breaker: Breaker,
}

/// The actor.
pub(super) struct Supervisor {
    context: Arc<WebhookContext>,
    endpoints: HashMap<WebhookId, Child>,
    next_serial: u64,
    is_draining: bool,
    /// A search of the store for due deliveries is running.
    is_sweeping: bool,
}

impl Supervisor {
    pub(super) fn new(context: Arc<WebhookContext>, is_draining: bool, ctx: &mut Context<Self>) -> Self {
        ctx.set_mailbox_capacity(MAILBOX);
        Self { context, endpoints: HashMap::new(), next_serial: 0, is_draining, is_sweeping: false }
    }

    fn nudge(&mut self, webhook: OwnedWebhook, ctx: &Context<Self>) {
        if self.is_draining {
            return;
        }
        let child = self.endpoints.entry(webhook.id).or_insert_with(|| {
            self.next_serial += 1;
            let addr = Endpoint::start(webhook, self.next_serial, self.context.clone(), ctx.address().recipient());
            Child { addr, serial: self.next_serial, nudges: 0, breaker: Breaker::default() }
        });
        // A nudge that does not fit is no loss: only nudges wait in that mailbox.
        if child.addr.try_send(Nudge).is_ok() {
            child.nudges += 1;
        }
    }

    /// Searches the store for work of which no nudge came: deliveries whose lease ended and, with `all`, every
    /// webhook with pending deliveries.
    fn sweep(&mut self, all: bool, ctx: &mut Context<Self>) {
        if self.is_draining || self.is_sweeping {
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

impl Handler<NudgeAll> for Supervisor {
    type Result = ();

    fn handle(&mut self, NudgeAll { webhooks }: NudgeAll, ctx: &mut Self::Context) {
        for webhook in webhooks {
            self.nudge(webhook, ctx);
        }
    }
}

impl Handler<Repaired> for Supervisor {
    type Result = ();

    fn handle(&mut self, Repaired { webhook }: Repaired, ctx: &mut Self::Context) {
        if let Some(child) = self.endpoints.get_mut(&webhook.id)
            // If it does not fit, the next probe closes the breaker.
            && child.addr.try_send(CloseBreaker).is_ok()
        {
            child.breaker = Breaker::default();
        }
        // An endpoint that is not there has forgotten already.
        self.nudge(webhook, ctx);
    }
}

impl Handler<EndpointEvent> for Supervisor {
    type Result = ();

    fn handle(&mut self, event: EndpointEvent, ctx: &mut Self::Context) {
        match event {
            EndpointEvent::Idle { webhook, serial, nudges } => {
                // A nudge that it had not seen yet is in its mailbox: then it stays.
                if self.endpoints.get(&webhook).is_some_and(|child| child.serial == serial && child.nudges == nudges) {
                    self.endpoints.remove(&webhook);
                }
            }
            EndpointEvent::Ended { webhook, serial } => {
                // An endpoint that was let go is not in the table any more.
                if self.endpoints.get(&webhook.id).is_some_and(|child| child.serial == serial) {
                    self.endpoints.remove(&webhook.id);
                    tracing::error!(webhook_id = %webhook.id, "endpoint panicked; restarting it: report it with the panic above");
                    self.nudge(webhook, ctx);
                }
            }
            EndpointEvent::Breaker { webhook, serial, breaker } => {
                if let Some(child) = self.endpoints.get_mut(&webhook).filter(|child| child.serial == serial) {
                    child.breaker = breaker;
                }
            }
        }
    }
}

impl Handler<Breakers> for Supervisor {
    type Result = MessageResult<Breakers>;

    fn handle(&mut self, Breakers { webhooks }: Breakers, _: &mut Self::Context) -> Self::Result {
        let now = Instant::now();
        // An endpoint that is not there has nothing due, and will begin with a closed breaker.
        let state = |id| self.endpoints.get(id).map_or(BreakerState::Closed, |child| child.breaker.state(now));
        MessageResult(webhooks.iter().map(state).collect())
    }
}

impl Handler<Drain> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Drain, _: &mut Self::Context) {
        self.is_draining = true;
        for child in self.endpoints.values() {
            // Unbounded, but one message an endpoint, once.
            child.addr.do_send(Drain);
        }
    }
}

impl Handler<ObserveAll> for Supervisor {
    type Result = ResponseFuture<WebhooksState>;

    fn handle(&mut self, _: ObserveAll, _: &mut Self::Context) -> Self::Result {
        let addrs: Vec<_> = self.endpoints.values().map(|child| child.addr.clone()).collect();
        Box::pin(async move {
            let mut state = WebhooksState { endpoints: addrs.len(), in_flight: 0 };
            for addr in addrs {
                state.in_flight += addr.send(Observe).await.unwrap_or(0);
            }
            state
        })
    }
}

#[cfg(any(test, feature = "testing"))]
impl Handler<PanicSupervisor> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: PanicSupervisor, _: &mut Self::Context) {
        panic!("a supervisor that was told to panic");
    }
}
