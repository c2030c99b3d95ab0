//! One webhook's deliveries on this node: claims what is due as far as it has room, sends, records, and parks when there
//! is nothing left. It hurts nobody but itself: it has its own room, its own breaker and its own queue in the store.

use std::{sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, MessageResult, SpawnHandle, WrapFuture,
    dev::ContextFutureSpawner,
};
use tokio::time::Instant;

use super::{
    Wiring,
    breaker::{Breaker, Leave},
    supervisor::{EndpointEnded, Idle, Supervisor},
};
use crate::{
    model::{Attempt, Claim, Delivery, Target, Verdict, WebhookId},
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
    wiring: Arc<Wiring>,
    supervisor: Addr<Supervisor>,
    breaker: Breaker,
    /// Being sent.
    sending: usize,
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
        wiring: Arc<Wiring>,
        supervisor: Addr<Supervisor>,
    ) -> Addr<Self> {
        Self::create(|_| Self {
            webhook,
            serial,
            wiring,
            supervisor,
            breaker: Breaker::default(),
            sending: 0,
            finished: Vec::new(),
            recording: 0,
            claiming: false,
            nudged: false,
            nudges: 0,
            draining: false,
            alarm: None,
        })
    }

    fn under_way(&self) -> usize {
        self.sending + self.finished.len() + self.recording
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
        // What is sent and not yet recorded holds its place: an endpoint cannot outrun the store.
        let under_way = self.under_way();
        let room = match self.breaker.leave(Instant::now()) {
            Leave::All => self.wiring.config.concurrency.saturating_sub(under_way),
            Leave::Probe => usize::from(under_way == 0),
            Leave::NotBefore(at) => return self.wake_at(at, ctx),
        };
        if room == 0 {
            return;
        }
        self.claiming = true;
        let (deliveries, webhook) = (self.wiring.deliveries.clone(), self.webhook);
        async move { deliveries.claim(webhook, room).await }
            .into_actor(self)
            .map(move |claim, endpoint, ctx| endpoint.on_claim(claim, room, ctx))
            .spawn(ctx);
    }

    fn on_claim(&mut self, claim: Result<Claim, Unavailable>, room: usize, ctx: &mut Context<Self>) {
        self.claiming = false;
        let nudged = std::mem::take(&mut self.nudged);
        let Ok(Claim { target, deliveries, next_due }) = claim else {
            return self.wake_at(Instant::now() + RETRY, ctx);
        };
        let is_full = deliveries.len() == room;
        if let Some(target) = target {
            for delivery in deliveries {
                self.send(target.clone(), delivery, ctx);
            }
        }
        if nudged {
            // Something became due, or room became free, while the claim was under way.
            return self.pull(ctx);
        }
        if is_full {
            // The next claim comes when one of these is done.
            return;
        }
        match next_due {
            Some(pause) => self.wake_at(Instant::now() + pause.clamp(LEAST_PAUSE, LONGEST_PAUSE), ctx),
            None if self.under_way() == 0 => self.park(),
            None => {}
        }
    }

    fn send(&mut self, target: Arc<Target>, delivery: Delivery, ctx: &mut Context<Self>) {
        self.sending += 1;
        let sender = self.wiring.sender.clone();
        async move {
            let report = sender.send(&target, &delivery).await;
            Attempt::judge(delivery, report, target.backoff, rand::random())
        }
        .into_actor(self)
        .map(Self::on_attempt)
        .spawn(ctx);
    }

    fn on_attempt(attempt: Attempt, endpoint: &mut Self, ctx: &mut Context<Self>) {
        endpoint.sending -= 1;
        match attempt.report.verdict {
            Verdict::Delivered => endpoint.breaker.succeeded(),
            Verdict::Failed { .. } | Verdict::Gone => endpoint.breaker.failed(Instant::now()),
        }
        endpoint.finished.push(attempt);
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
        let (deliveries, webhook) = (self.wiring.deliveries.clone(), self.webhook);
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

    fn handle(&mut self, _: Drain, _: &mut Self::Context) {
        self.draining = true;
    }
}

impl Handler<Observe> for Endpoint {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.under_way())
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
