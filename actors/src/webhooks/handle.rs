//! The handle to the webhook actors of this node.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use actix::{Actor as _, Arbiter};

use super::{
    breaker::BreakerState,
    context::{WebhookConfig, WebhookContext},
    messages::{Breakers, Drain, NudgeAll, ObserveAll, Repaired, WebhooksState},
    supervisor::Supervisor,
};
use crate::{
    model::{OwnedWebhook, WebhookId},
    ports::{Deliveries, WebhookSender},
    supervise::{ActorSlot, Tasks},
};

/// Everything that this node delivers. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    supervisor: ActorSlot<Supervisor>,
    is_draining: Arc<AtomicBool>,
}

impl Webhooks {
    /// Starts the supervisor on a thread of its own. Must be called within a running actix `System`.
    #[must_use]
    pub fn start(
        config: WebhookConfig,
        deliveries: Arc<dyn Deliveries>,
        sender: Arc<dyn WebhookSender>,
        tasks: &Tasks,
    ) -> Self {
        let context = Arc::new(WebhookContext { config, deliveries, sender });
        let arbiter = Arbiter::new().handle();
        let first = context.clone();
        let addr = Supervisor::start_in_arbiter(&arbiter, move |ctx| Supervisor::new(first, false, ctx));
        let (supervisor, is_draining) = (ActorSlot::new(addr), Arc::new(AtomicBool::new(false)));
        let drains = is_draining.clone();
        let rebuild = move || {
            let (context, is_draining) = (context.clone(), drains.load(Ordering::SeqCst));
            Supervisor::create(|ctx| Supervisor::new(context, is_draining, ctx))
        };
        arbiter.spawn(supervisor.clone().keep_running("webhooks", tasks.clone(), rebuild));
        Self { supervisor, is_draining }
    }

    /// Starts the supervisor on the caller's thread, whose clock a test may have paused.
    #[cfg(test)]
    pub(super) fn start_here(
        config: WebhookConfig,
        deliveries: Arc<dyn Deliveries>,
        sender: Arc<dyn WebhookSender>,
    ) -> Self {
        let context = Arc::new(WebhookContext { config, deliveries, sender });
        let addr = Supervisor::create(|ctx| Supervisor::new(context, false, ctx));
        Self { supervisor: ActorSlot::new(addr), is_draining: Arc::default() }
    }

    /// Tells of webhooks that have something due. Never waits; a nudge that is lost is made up for by the sweep.
    pub fn nudge(&self, webhooks: Vec<OwnedWebhook>) {
        if !webhooks.is_empty() {
            let _ = self.supervisor.addr().try_send(NudgeAll { webhooks });
        }
    }

    /// Somebody repaired a webhook, or saw it work: what is due is sent now, whatever failed before.
    pub fn repaired(&self, webhook: OwnedWebhook) {
        let _ = self.supervisor.addr().try_send(Repaired { webhook });
    }

    /// The state of these webhooks' breakers on this node, in their order.
    pub async fn breakers(&self, webhooks: Vec<WebhookId>) -> Vec<BreakerState> {
        let count = webhooks.len();
        let states = self.supervisor.addr().send(Breakers { webhooks }).await;
        states.unwrap_or_else(|_| vec![BreakerState::Closed; count])
    }

    /// Claims nothing more. Requests in flight go on.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
        self.supervisor.addr().do_send(Drain);
    }

    /// The figures now.
    pub async fn observe(&self) -> WebhooksState {
        self.supervisor.addr().send(ObserveAll).await.unwrap_or_default()
    }

    /// Makes the supervisor panic.
    #[cfg(any(test, feature = "testing"))]
    pub fn panic(&self) {
        self.supervisor.addr().do_send(super::supervisor::PanicSupervisor);
    }
}
