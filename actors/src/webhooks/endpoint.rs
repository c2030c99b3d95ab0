//! The deliveries of one webhook on this node: claims what is due, sends a bounded number at once, records the outcomes,
//! and parks when nothing is left. Where deliveries arrive fast it claims ahead, so that one query brings many. A slow or
//! dead endpoint harms nobody else: it has its own concurrency, its own breaker and its own queue in the store.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, MessageResult, Recipient, SpawnHandle, WrapFuture,
    dev::ContextFutureSpawner,
};
use tokio::time::Instant;

use super::{
    breaker::{Breaker, BreakerState},
    context::WebhookContext,
    messages::{CloseBreaker, Drain, EndpointEvent, Nudge, Observe},
    prefetch::Prefetch,
};
use crate::{
    metric_names,
    model::{DeliveryId, OwnedWebhook},
    ports::{Attempt, Claim, Delivery, Next, Target, Unavailable, Verdict},
};

/// Pause before the store is asked again after it failed.
const RETRY: Duration = Duration::from_secs(1);
/// How often the record of an outcome is tried. After that the lease ends and the attempt is made again.
const RECORD_TRIES: usize = 10;
/// Shortest pause before the next claim. Without it, rows that another node has locked would be asked for in a loop.
const LEAST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause before the next claim; the sweep comes earlier.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Deliveries that may be claimed, in flight or waiting for their record, as a multiple of the concurrency. It keeps an
/// endpoint from outrunning the store.
const IN_FLIGHT_FACTOR: usize = 16;
/// How long a claimed delivery may wait here to be sent. A lease outlasts an attempt by more than this.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The actor.
pub(super) struct Endpoint {
    webhook: OwnedWebhook,
    serial: u64,
    context: Arc<WebhookContext>,
    supervisor: Recipient<EndpointEvent>,
    breaker: Breaker,
    /// Claimed and not sent yet, with the moment of the claim.
    waiting: VecDeque<(Arc<Target>, Delivery, Instant)>,
    /// Being given back to the store.
    releasing: usize,
    /// Being sent.
    sending: usize,
    prefetch: Prefetch,
    /// The last claim left due deliveries behind.
    has_more: bool,
    /// Sent, and waiting for the record in progress to end.
    finished: Vec<Attempt>,
    /// Being recorded.
    recording: usize,
    is_claiming: bool,
    /// A nudge came, or capacity became free, while a claim was in progress.
    was_nudged: bool,
    /// Nudges received, for the supervisor to tell whether it sent another.
    nudges: u64,
    is_draining: bool,
    /// The timer for what is due later.
    alarm: Option<SpawnHandle>,
}

impl Endpoint {
    pub(super) fn start(
        webhook: OwnedWebhook,
        serial: u64,
        context: Arc<WebhookContext>,
        supervisor: Recipient<EndpointEvent>,
    ) -> Addr<Self> {
        Self::create(|_| Self {
            webhook,
            serial,
            context,
            supervisor,
            breaker: Breaker::default(),
            waiting: VecDeque::new(),
            releasing: 0,
            sending: 0,
            prefetch: Prefetch::new(Instant::now()),
            has_more: false,
            finished: Vec::new(),
            recording: 0,
            is_claiming: false,
            was_nudged: false,
            nudges: 0,
            is_draining: false,
            alarm: None,
        })
    }

    /// Deliveries claimed and not recorded yet.
    fn in_flight(&self) -> usize {
        self.waiting.len() + self.releasing + self.sending + self.finished.len() + self.recording
    }

    /// How many to claim now.
    fn capacity(&mut self, now: Instant) -> usize {
        let concurrency = self.context.config.concurrency;
        let wanted = concurrency + self.prefetch.claim_ahead(now);
        let capacity = wanted.saturating_sub(self.sending + self.waiting.len());
        capacity.min((concurrency * IN_FLIGHT_FACTOR).saturating_sub(self.in_flight()))
    }

    /// Claims as much as there is capacity for.
    fn claim(&mut self, ctx: &mut Context<Self>) {
        if self.is_claiming {
            self.was_nudged = true;
            return;
        }
        if self.is_draining {
            return;
        }
        let now = Instant::now();
        if self.waiting.len() > self.prefetch.claim_ahead(now) / 2 {
            // Enough for now: waiting makes the next claim bring many at once.
            self.has_more = true;
            return;
        }
        let capacity = match self.breaker.state(now) {
            BreakerState::Closed => self.capacity(now),
            BreakerState::HalfOpen => usize::from(self.in_flight() == 0),
            BreakerState::Open { until: at } => return self.wake_at(at, ctx),
        };
        if capacity == 0 {
            return;
        }
        self.is_claiming = true;
        let (deliveries, webhook) = (self.context.deliveries.clone(), self.webhook.clone());
        async move { deliveries.claim(&webhook, capacity).await }
            .into_actor(self)
            .map(move |claim, endpoint, ctx| endpoint.on_claim(claim, capacity, ctx))
            .spawn(ctx);
    }

    fn on_claim(&mut self, claim: Result<Claim, Unavailable>, capacity: usize, ctx: &mut Context<Self>) {
        self.is_claiming = false;
        let was_nudged = std::mem::take(&mut self.was_nudged);
        let Ok(Claim { target, deliveries, next_due, age }) = claim else {
            return self.wake_at(Instant::now() + RETRY, ctx);
        };
        self.has_more = deliveries.len() == capacity;
        if let Some(target) = target {
            let claimed_at = Instant::now() - age;
            self.waiting.extend(deliveries.into_iter().map(|delivery| (target.clone(), delivery, claimed_at)));
        }
        self.send_waiting(ctx);
        if was_nudged {
            return self.claim(ctx);
        }
        if self.has_more {
            // The end of one of these starts the next claim.
            return;
        }
        match next_due {
            Some(pause) => self.wake_at(Instant::now() + pause.clamp(LEAST_PAUSE, LONGEST_PAUSE), ctx),
            None if self.in_flight() == 0 => self.park(),
            None => {}
        }
    }

    /// Sends what waits, up to the concurrency. Gives it back where it would not be sent soon.
    fn send_waiting(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let is_stale = self.waiting.front().is_some_and(|(.., since)| now.duration_since(*since) >= MAX_WAIT);
        if self.is_draining || is_stale || matches!(self.breaker.state(now), BreakerState::Open { .. }) {
            return self.release(ctx);
        }
        while self.sending < self.context.config.concurrency
            && let Some((target, delivery, _)) = self.waiting.pop_front()
        {
            self.send(target, delivery, ctx);
        }
    }

    fn release(&mut self, ctx: &mut Context<Self>) {
        if self.waiting.is_empty() {
            return;
        }
        let ids: Vec<DeliveryId> = self.waiting.drain(..).map(|(_, delivery, _)| delivery.id).collect();
        let count = ids.len();
        self.releasing += count;
        self.has_more = true;
        let (deliveries, webhook) = (self.context.deliveries.clone(), self.webhook.clone());
        // If the store does not answer, their lease ends.
        async move { deliveries.release(&webhook, &ids).await }
            .into_actor(self)
            .map(move |_, endpoint, ctx| {
                endpoint.releasing -= count;
                endpoint.claim(ctx);
            })
            .spawn(ctx);
    }

    fn send(&mut self, target: Arc<Target>, delivery: Delivery, ctx: &mut Context<Self>) {
        self.sending += 1;
        let sender = self.context.sender.clone();
        async move {
            let report = sender.send(&target, &delivery).await;
            Attempt::judge(delivery, report, target.backoff, rand::random())
        }
        .into_actor(self)
        .map(Self::on_attempt)
        .spawn(ctx);
    }

    fn on_attempt(attempt: Attempt, endpoint: &mut Self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        endpoint.sending -= 1;
        endpoint.prefetch.finished(now);
        let outcome = match (&attempt.report.verdict, attempt.next) {
            (Verdict::Delivered, _) => "delivered",
            (Verdict::Gone, _) => "gone",
            (Verdict::Failed { .. }, Next::RetryIn(_)) => "retried",
            (Verdict::Failed { .. }, _) => "failed",
        };
        metrics::histogram!(metric_names::ATTEMPTS, "outcome" => outcome)
            .record(attempt.report.response_time.as_secs_f64());
        let was_open = endpoint.breaker.is_open();
        match attempt.report.verdict {
            Verdict::Delivered => endpoint.breaker.succeeded(),
            Verdict::Failed { .. } | Verdict::Gone => endpoint.breaker.failed(now),
        }
        if was_open || endpoint.breaker.is_open() {
            endpoint.report_breaker();
        }
        endpoint.finished.push(attempt);
        endpoint.send_waiting(ctx);
        if endpoint.has_more {
            endpoint.claim(ctx);
        }
        endpoint.record(ctx);
    }

    /// Records everything that is finished in one transaction. What finishes meanwhile goes with the next, so that only
    /// one transaction at a time writes the webhook's row.
    fn record(&mut self, ctx: &mut Context<Self>) {
        if self.recording > 0 || self.finished.is_empty() {
            return;
        }
        let attempts = std::mem::take(&mut self.finished);
        self.recording = attempts.len();
        let (deliveries, webhook) = (self.context.deliveries.clone(), self.webhook.clone());
        async move {
            for _ in 0..RECORD_TRIES {
                if deliveries.record(&webhook, &attempts).await.is_ok() {
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
            tracing::warn!(webhook_id = %webhook.id, count = attempts.len(), "attempts not recorded; they will be made again");
        }
        .into_actor(self)
        .map(|(), endpoint, ctx| {
            endpoint.recording = 0;
            endpoint.record(ctx);
            endpoint.claim(ctx);
        })
        .spawn(ctx);
    }

    fn wake_at(&mut self, at: Instant, ctx: &mut Context<Self>) {
        if let Some(alarm) = self.alarm.take() {
            ctx.cancel_future(alarm);
        }
        let pause = at.saturating_duration_since(Instant::now());
        self.alarm = Some(ctx.run_later(pause, |endpoint, ctx| {
            endpoint.alarm = None;
            endpoint.claim(ctx);
        }));
    }

    fn report_breaker(&self) {
        let (webhook, serial, breaker) = (self.webhook.id, self.serial, self.breaker);
        self.supervisor.do_send(EndpointEvent::Breaker { webhook, serial, breaker });
    }

    /// Nothing is due, now or later: asks the supervisor to let this endpoint go.
    fn park(&self) {
        self.supervisor.do_send(EndpointEvent::Idle {
            webhook: self.webhook.id,
            serial: self.serial,
            nudges: self.nudges,
        });
    }
}

impl Actor for Endpoint {
    type Context = Context<Self>;
}

impl Handler<Nudge> for Endpoint {
    type Result = ();

    fn handle(&mut self, _: Nudge, ctx: &mut Self::Context) {
        self.nudges += 1;
        self.claim(ctx);
    }
}

impl Handler<CloseBreaker> for Endpoint {
    type Result = ();

    fn handle(&mut self, _: CloseBreaker, ctx: &mut Self::Context) {
        self.breaker.succeeded();
        self.report_breaker();
        self.claim(ctx);
    }
}

impl Handler<Drain> for Endpoint {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        self.is_draining = true;
        self.release(ctx);
    }
}

impl Handler<Observe> for Endpoint {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.in_flight() + usize::from(self.is_claiming))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if self.breaker.is_open() {
            tracing::debug!(webhook_id = %self.webhook.id, "endpoint parked while its receiver fails");
        }
        self.supervisor.do_send(EndpointEvent::Ended { webhook: self.webhook.clone(), serial: self.serial });
    }
}
