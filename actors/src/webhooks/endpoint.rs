//! One webhook's deliveries on this node: claims what is due, sends so many at once, records, and parks when there is
//! nothing left. Where they arrive fast it claims ahead, so that the store is asked for many at a time. It hurts nobody but
//! itself: it has its own room, its own breaker and its own queue in the store.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, MessageResult, SpawnHandle, WrapFuture,
    dev::ContextFutureSpawner,
};
use tokio::time::Instant;

use super::{
    WebhookContext,
    breaker::{Breaker, BreakerState},
    prefetch::Prefetch,
    supervisor::{EndpointEnded, Idle, Supervisor},
};
use crate::{
    metric_names,
    model::{Attempt, Claim, Delivery, DeliveryId, Next, Target, Verdict, WebhookId},
    ports::Unavailable,
};

/// The pause before the store is asked again after it failed.
const RETRY: Duration = Duration::from_secs(1);
/// How often an attempt's outcome is given to a store that fails; after that its lease runs out and it is made again.
const RECORD_TRIES: usize = 10;
/// The least pause before a look at what is due: rows that another node holds are not asked for without end.
const LEAST_PAUSE: Duration = Duration::from_millis(20);
/// The longest: a sweep looks more often.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// So many times as many as are sent at once may be claimed, sent or waiting for their record: an endpoint cannot outrun
/// the store.
const IN_FLIGHT_FACTOR: usize = 16;
/// How long a delivery waits here for its turn. A lease is longer than an attempt by more than this.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Something may be due.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Nudge;

/// No further claims.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Drain;

/// Deliveries under way.
#[derive(Message)]
#[rtype(result = "usize")]
pub(super) struct Observe;

pub(super) struct Endpoint {
    webhook: WebhookId,
    serial: u64,
    context: Arc<WebhookContext>,
    supervisor: Addr<Supervisor>,
    breaker: Breaker,
    /// Claimed, waiting for their turn, with the moment of the claim.
    waiting: VecDeque<(Arc<Target>, Delivery, Instant)>,
    /// Given back, until the store has it.
    releasing: usize,
    /// Being sent.
    sending: usize,
    prefetch: Prefetch,
    /// The last claim left some that were due.
    has_more: bool,
    /// Sent, waiting for the record that is being written to be done.
    finished: Vec<Attempt>,
    recording: usize,
    claiming: bool,
    /// A nudge came, or room became free, while a claim was under way.
    nudged: bool,
    nudges: u64,
    draining: bool,
    /// The wake-up for what is due later.
    alarm: Option<SpawnHandle>,
}

impl Endpoint {
    pub(super) fn start(
        webhook: WebhookId,
        serial: u64,
        context: Arc<WebhookContext>,
        supervisor: Addr<Supervisor>,
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
            claiming: false,
            nudged: false,
            nudges: 0,
            draining: false,
            alarm: None,
        })
    }

    fn in_flight(&self) -> usize {
        self.waiting.len() + self.releasing + self.sending + self.finished.len() + self.recording
    }

    /// How many to claim now.
    fn capacity(&mut self, now: Instant) -> usize {
        let concurrency = self.context.config.concurrency;
        let wanted = concurrency + self.prefetch.window(now);
        let capacity = wanted.saturating_sub(self.sending + self.waiting.len());
        capacity.min((concurrency * IN_FLIGHT_FACTOR).saturating_sub(self.in_flight()))
    }

    /// Claims as much as there is room for.
    fn pull(&mut self, ctx: &mut Context<Self>) {
        if self.claiming {
            self.nudged = true;
            return;
        }
        if self.draining {
            return;
        }
        let now = Instant::now();
        if self.waiting.len() > self.prefetch.window(now) / 2 {
            // Enough for now: the next claim brings many at once.
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
        self.claiming = true;
        let claimed_at = Instant::now();
        let (deliveries, webhook) = (self.context.deliveries.clone(), self.webhook);
        async move { deliveries.claim(webhook, capacity).await }
            .into_actor(self)
            .map(move |claim, endpoint, ctx| endpoint.on_claim(claim, capacity, claimed_at, ctx))
            .spawn(ctx);
    }

    /// `claimed_at`: from when their lease runs.
    fn on_claim(&mut self, claim: Result<Claim, Unavailable>, capacity: usize, claimed_at: Instant, ctx: &mut Context<Self>) {
        self.claiming = false;
        let nudged = std::mem::take(&mut self.nudged);
        let Ok(Claim { target, deliveries, next_due }) = claim else {
            return self.wake_at(Instant::now() + RETRY, ctx);
        };
        self.has_more = deliveries.len() == capacity;
        if let Some(target) = target {
            self.waiting.extend(deliveries.into_iter().map(|delivery| (target.clone(), delivery, claimed_at)));
        }
        self.send_waiting(ctx);
        if nudged {
            // Something became due, or room became free, while the claim was under way.
            return self.pull(ctx);
        }
        if self.has_more {
            // The next claim comes when one of these is done.
            return;
        }
        match next_due {
            Some(pause) => self.wake_at(Instant::now() + pause.clamp(LEAST_PAUSE, LONGEST_PAUSE), ctx),
            None if self.in_flight() == 0 => self.park(),
            None => {}
        }
    }

    /// Sends what waits as far as there is room; gives it back where its turn will not come soon.
    fn send_waiting(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let is_stale = self.waiting.front().is_some_and(|(.., since)| now.duration_since(*since) >= MAX_WAIT);
        if self.draining || is_stale || matches!(self.breaker.state(now), BreakerState::Open { .. }) {
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
        let (deliveries, webhook) = (self.context.deliveries.clone(), self.webhook);
        // Where the store does not answer their lease runs out.
        async move { deliveries.release(webhook, &ids).await }
            .into_actor(self)
            .map(move |_, endpoint, ctx| {
                endpoint.releasing -= count;
                endpoint.pull(ctx);
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
        match attempt.report.verdict {
            Verdict::Delivered => endpoint.breaker.succeeded(),
            Verdict::Failed { .. } | Verdict::Gone => endpoint.breaker.failed(now),
        }
        endpoint.finished.push(attempt);
        endpoint.send_waiting(ctx);
        if endpoint.has_more {
            endpoint.pull(ctx);
        }
        endpoint.record(ctx);
    }

    /// Records what is finished, all of it at once: while one record is written, what finishes waits and goes with the
    /// next, so that a webhook's row is written by one at a time.
    fn record(&mut self, ctx: &mut Context<Self>) {
        if self.recording > 0 || self.finished.is_empty() {
            return;
        }
        let attempts = std::mem::take(&mut self.finished);
        self.recording = attempts.len();
        let (deliveries, webhook) = (self.context.deliveries.clone(), self.webhook);
        async move {
            for _ in 0..RECORD_TRIES {
                if deliveries.record(webhook, &attempts).await.is_ok() {
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
            tracing::warn!(webhook_id = %webhook, count = attempts.len(), "attempts not recorded; they will be made again");
        }
        .into_actor(self)
        .map(|(), endpoint, ctx| {
            endpoint.recording = 0;
            endpoint.record(ctx);
            endpoint.pull(ctx);
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
            endpoint.pull(ctx);
        }));
    }

    /// Nothing is due, now or later: the supervisor lets go of it, unless it was nudged meanwhile.
    fn park(&self) {
        self.supervisor.do_send(Idle { webhook: self.webhook, serial: self.serial, nudges: self.nudges });
    }
}

impl Actor for Endpoint {
    type Context = Context<Self>;
}

impl Handler<Nudge> for Endpoint {
    type Result = ();

    fn handle(&mut self, _: Nudge, ctx: &mut Self::Context) {
        self.nudges += 1;
        self.pull(ctx);
    }
}

impl Handler<Drain> for Endpoint {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        self.draining = true;
        self.release(ctx);
    }
}

impl Handler<Observe> for Endpoint {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.in_flight() + usize::from(self.claiming))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if self.breaker.is_open() {
            tracing::debug!(webhook_id = %self.webhook, "endpoint parked while its receiver fails");
        }
        self.supervisor.do_send(EndpointEnded { webhook: self.webhook, serial: self.serial });
    }
}
