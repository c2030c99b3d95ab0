//! Supervisor and endpoints on a paused clock: an hour of backoff runs in a moment.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{BreakerState, WebhookConfig, Webhooks};
use crate::{
    model::{AppId, OwnedWebhook, WebhookId},
    ports::{Delivery, Next, Target, Verdict},
    testing::{MemoryOutbox, ScriptedSender},
};

const FAILED: Option<Verdict> = Some(Verdict::Failed { retry_after: None });
const DELIVERED: Option<Verdict> = Some(Verdict::Delivered);

struct Bench {
    outbox: Arc<MemoryOutbox>,
    sender: Arc<ScriptedSender>,
    webhooks: Webhooks,
}

impl Bench {
    fn start(takes: Duration, script: impl Fn(&Target, &Delivery) -> Option<Verdict> + Send + Sync + 'static) -> Self {
        let config =
            WebhookConfig { concurrency: 8, sweep: Duration::from_secs(60), lease_check: Duration::from_secs(5) };
        let outbox = Arc::new(MemoryOutbox::default());
        let sender = Arc::new(ScriptedSender::new(takes, script));
        let webhooks = Webhooks::start_here(config, outbox.clone(), sender.clone());
        Self { outbox, sender, webhooks }
    }

    fn owe(&self, webhook: OwnedWebhook, count: usize) {
        for _ in 0..count {
            self.outbox.owe(webhook.clone());
        }
        self.webhooks.nudge(vec![webhook]);
    }
}

fn webhook() -> OwnedWebhook {
    OwnedWebhook { app: AppId::parse("work-buddy").unwrap(), id: WebhookId::generate() }
}

/// Runs a test in an actix system whose clock is paused: it goes on only when nobody has anything to do.
fn paused(test: impl Future<Output = ()>) {
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    actix::System::with_tokio_rt(runtime).block_on(test);
}

#[test]
fn attempts_come_when_the_table_says() {
    paused(async {
        let bench = Bench::start(Duration::ZERO, |_, _| FAILED);
        let claimed_at = Instant::now();
        bench.owe(webhook(), 1);
        sleep(Duration::from_secs(3600)).await;
        let at: Vec<f64> = bench.sender.sent().iter().map(|(.., at)| (*at - claimed_at).as_secs_f64()).collect();
        assert_eq!(at.len(), 6, "the first and five more: {at:?}");
        for (pause, expected) in at.windows(2).map(|pair| pair[1] - pair[0]).zip([1.0, 2.0, 4.0, 8.0, 16.0]) {
            assert!(pause >= expected * 0.9 && pause <= expected * 1.1 + 0.1, "{pause} for {expected}: {at:?}");
        }
        let ended: Vec<Next> = bench.outbox.ended().into_iter().map(|(_, next)| next).collect();
        assert_eq!(ended, [Next::Failed]);
    });
}

#[test]
fn eight_at_once_and_no_more_are_even_claimed() {
    paused(async {
        let bench = Bench::start(Duration::from_secs(10), |_, _| DELIVERED);
        bench.owe(webhook(), 20);
        sleep(Duration::from_secs(9)).await;
        assert_eq!(bench.sender.sent().len(), 8);
        assert_eq!(bench.outbox.claims(), 1);
        assert_eq!(bench.webhooks.observe().await.in_flight, 8);
        sleep(Duration::from_secs(25)).await;
        assert_eq!(bench.outbox.ended().len(), 20);
    });
}

#[test]
fn where_deliveries_arrive_fast_many_are_claimed_at_once() {
    paused(async {
        let bench = Bench::start(Duration::from_millis(1), |_, _| DELIVERED);
        bench.owe(webhook(), 1000);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(bench.outbox.ended().len(), 1000);
        assert!(bench.outbox.claims() < 100, "{} claims", bench.outbox.claims());
    });
}

#[test]
fn what_was_claimed_ahead_is_given_back_when_the_endpoint_dies() {
    paused(async {
        let tried = Arc::new(AtomicUsize::new(0));
        let counter = tried.clone();
        let script = move |_: &Target, _: &Delivery| {
            if counter.fetch_add(1, Ordering::SeqCst) < 200 { DELIVERED } else { FAILED }
        };
        let bench = Bench::start(Duration::from_millis(1), script);
        bench.owe(webhook(), 1000);
        sleep(Duration::from_secs(2)).await;
        // Ten failures open the breaker, and at most seven more were under way then.
        let tried = tried.load(Ordering::SeqCst);
        assert!((210..=217).contains(&tried), "{tried} tried");
        assert_eq!(bench.outbox.held(), 0);
    });
}

#[test]
fn a_hanging_endpoint_delays_nobody_elses() {
    paused(async {
        let slow = webhook();
        let bench = Bench::start(Duration::ZERO, |_, _| DELIVERED);
        let hanging = Bench::start(Duration::from_secs(10), |_, _| FAILED);
        hanging.owe(slow, 100);
        bench.owe(webhook(), 1000);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.outbox.ended().len(), 1000);
    });
}

#[test]
fn an_idle_endpoint_is_let_go_and_comes_back() {
    paused(async {
        let bench = Bench::start(Duration::ZERO, |_, _| DELIVERED);
        let webhook = webhook();
        for round in 1..=3 {
            bench.owe(webhook.clone(), 10);
            sleep(Duration::from_secs(1)).await;
            assert_eq!(bench.outbox.ended().len(), round * 10);
            assert_eq!(bench.webhooks.observe().await.endpoints, 0, "round {round}");
        }
    });
}

#[test]
fn what_nobody_was_nudged_for_is_found_by_the_sweep() {
    paused(async {
        let bench = Bench::start(Duration::ZERO, |_, _| DELIVERED);
        sleep(Duration::from_secs(1)).await;
        bench.outbox.owe(webhook());
        sleep(Duration::from_secs(61)).await;
        assert_eq!(bench.outbox.ended().len(), 1);
    });
}

#[test]
fn a_dead_endpoint_costs_probes_and_a_living_one_is_served_at_once_again() {
    paused(async {
        let is_back = Arc::new(AtomicBool::new(false));
        let back = is_back.clone();
        let bench =
            Bench::start(Duration::ZERO, move |_, _| if back.load(Ordering::SeqCst) { DELIVERED } else { FAILED });
        bench.owe(webhook(), 5000);
        sleep(Duration::from_secs(3600)).await;
        let tries = bench.sender.sent().len();
        assert!(tries < 100, "{tries} tries in an hour");
        is_back.store(true, Ordering::SeqCst);
        sleep(Duration::from_secs(61)).await;
        let delivered = bench.outbox.ended().iter().filter(|(_, next)| *next == Next::Succeeded).count();
        assert!(delivered > 4900, "{delivered}");
    });
}

#[test]
fn a_repair_by_hand_closes_the_breaker() {
    paused(async {
        let is_back = Arc::new(AtomicBool::new(false));
        let back = is_back.clone();
        let bench =
            Bench::start(Duration::ZERO, move |_, _| if back.load(Ordering::SeqCst) { DELIVERED } else { FAILED });
        let webhook = webhook();
        bench.owe(webhook.clone(), 100);
        sleep(Duration::from_secs(600)).await;
        is_back.store(true, Ordering::SeqCst);
        // A probe has just failed, so the next is a minute away.
        let tried = bench.sender.sent().len();
        while bench.sender.sent().len() == tried {
            is_back.store(false, Ordering::SeqCst);
            sleep(Duration::from_secs(1)).await;
        }
        is_back.store(true, Ordering::SeqCst);
        let breakers = bench.webhooks.breakers(vec![webhook.id, WebhookId::generate()]).await;
        assert!(matches!(breakers[..], [BreakerState::Open { .. }, BreakerState::Closed]), "{breakers:?}");
        bench.webhooks.repaired(webhook.clone());
        assert_eq!(bench.webhooks.breakers(vec![webhook.id]).await, [BreakerState::Closed], "at once");
        sleep(Duration::from_secs(5)).await;
        let delivered = bench.outbox.ended().iter().filter(|(_, next)| *next == Next::Succeeded).count();
        assert!(delivered > 80, "{delivered}");
        assert_eq!(bench.webhooks.breakers(vec![webhook.id]).await, [BreakerState::Closed]);
    });
}

#[test]
fn an_endpoint_that_panics_is_built_anew() {
    paused(async {
        let panicked = Arc::new(AtomicBool::new(false));
        let once = panicked.clone();
        let bench =
            Bench::start(Duration::ZERO, move |_, _| if once.swap(true, Ordering::SeqCst) { DELIVERED } else { None });
        let webhook = webhook();
        bench.owe(webhook.clone(), 1);
        sleep(Duration::from_secs(1)).await;
        assert!(panicked.load(Ordering::SeqCst) && bench.outbox.ended().is_empty());
        bench.owe(webhook.clone(), 3);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.outbox.ended().len(), 3);
    });
}

#[test]
fn a_store_that_is_away_loses_no_outcome() {
    paused(async {
        let bench = Bench::start(Duration::from_secs(2), |_, _| DELIVERED);
        bench.owe(webhook(), 5);
        sleep(Duration::from_secs(1)).await;
        bench.outbox.set_down(true);
        sleep(Duration::from_secs(5)).await;
        bench.outbox.set_down(false);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(bench.outbox.ended().len(), 5);
        let sent: HashSet<_> = bench.sender.sent().into_iter().map(|(_, delivery, _)| delivery).collect();
        assert_eq!((sent.len(), bench.sender.sent().len()), (5, 5), "none was sent twice");
    });
}

#[test]
fn a_draining_node_claims_nothing_more() {
    paused(async {
        let bench = Bench::start(Duration::from_secs(1), |_, _| DELIVERED);
        let webhook = webhook();
        bench.owe(webhook.clone(), 20);
        sleep(Duration::from_millis(500)).await;
        bench.webhooks.drain();
        sleep(Duration::from_secs(60)).await;
        assert_eq!(bench.outbox.ended().len(), 8);
        assert_eq!(bench.webhooks.observe().await.in_flight, 0);
    });
}
