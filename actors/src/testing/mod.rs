//! Fakes of the ports and makers of events, for tests of the core (feature `testing`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use tokio::time::Instant;

use crate::{
    model::{
        AppId, Category, DeliveryId, Event, EventId, EventType, JsonObject, Offset, Offsets, OwnedWebhook, StreamKey,
        Timestamp, UserId, WebhookId,
    },
    ports::{
        Attempt, Backoff, Claim, Deliveries, Delivery, EventHistory, Next, Page, Report, Target, Unavailable, Verdict,
        WebhookSender,
    },
    protocol::PublishedEvent,
};

mod offline;
#[cfg(feature = "testing")]
mod routing;

pub use self::offline::{offline_ports, realtime_config};
#[cfg(feature = "testing")]
pub use self::routing::Routing;
#[cfg(feature = "testing")]
pub use crate::session::bench::FanOut;

/// Takes all frames of a client apart, as the socket loop does. Returns the number of messages.
///
/// # Panics
/// Where the frames break the protocol.
#[cfg(feature = "testing")]
#[must_use]
pub fn assemble(mut bytes: bytes::BytesMut) -> usize {
    let mut assembler = crate::socket::Assembler::default();
    std::iter::from_fn(|| assembler.next(&mut bytes, 65_536).expect("good frames")).count()
}

/// An event of app `work-buddy` for `user`, at these offsets of its user's and its app's stream.
///
/// # Panics
/// Where `user` is no user id.
#[must_use]
pub fn event(user: &str, user_offset: Offset, app_offset: Offset) -> Arc<PublishedEvent> {
    published(Some(user), Offsets { app: app_offset, user: Some(user_offset), broadcast: None })
}

/// A broadcast of app `work-buddy`, which is no platform app.
#[must_use]
pub fn broadcast(broadcast_offset: Offset, app_offset: Offset) -> Arc<PublishedEvent> {
    published(None, Offsets { app: app_offset, user: None, broadcast: Some(broadcast_offset) })
}

fn published(user: Option<&str>, offsets: Offsets) -> Arc<PublishedEvent> {
    PublishedEvent::new(Event {
        id: EventId::generate(),
        app_id: AppId::parse("work-buddy").expect("a slug"),
        user_id: user.map(|user| UserId::parse(user).expect("a user id")),
        category: Category::Notification,
        event_type: EventType::from_store("created"),
        entity_type: "notification".to_owned(),
        entity_id: "n1".to_owned(),
        data: JsonObject::empty(),
        timestamp: Timestamp::from_unix_ms(0),
        created_at: Timestamp::from_unix_ms(0),
        from_platform: false,
        offsets,
        trace: None,
    })
}

/// A history in memory that can be told to fail or to take its time, and counts what it is asked.
#[derive(Default)]
pub struct MemoryHistory {
    events: Mutex<Vec<Arc<PublishedEvent>>>,
    is_down: AtomicBool,
    delay_ms: AtomicU64,
    head_queries: Mutex<Vec<usize>>,
    pages: AtomicUsize,
}

impl MemoryHistory {
    /// Adds a committed event.
    ///
    /// # Panics
    /// Where another thread panicked while it held the lock.
    pub fn commit(&self, event: Arc<PublishedEvent>) {
        self.events.lock().expect("no thread panicked").push(event);
    }

    /// Whether every query fails from now on.
    pub fn set_down(&self, down: bool) {
        self.is_down.store(down, Ordering::SeqCst);
    }

    /// How long every answer takes from now on, after it was read.
    pub fn set_delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// The queries for heads so far, each by the number of its streams.
    #[must_use]
    pub fn head_queries(&self) -> Vec<usize> {
        self.head_queries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Pages read so far.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages.load(Ordering::SeqCst)
    }

    async fn delay(&self) {
        tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst))).await;
    }

    fn events_of(&self, stream: &StreamKey) -> Result<Vec<Arc<PublishedEvent>>, Unavailable> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(Unavailable);
        }
        let holds = |event: &&Arc<PublishedEvent>| match stream {
            StreamKey::User(user) => event.event().user_id.as_ref() == Some(user),
            StreamKey::App(app) => event.event().app_id == *app,
            StreamKey::Broadcast => event.event().user_id.is_none(),
        };
        let mut events: Vec<_> =
            self.events.lock().expect("no thread panicked").iter().filter(holds).cloned().collect();
        events.sort_by_key(|event| event.offset_in(stream.kind()));
        Ok(events)
    }
}

#[async_trait]
impl EventHistory for MemoryHistory {
    async fn heads(&self, streams: &[StreamKey]) -> Result<Vec<Offset>, Unavailable> {
        self.head_queries.lock().unwrap_or_else(PoisonError::into_inner).push(streams.len());
        let last = |stream| Ok(self.events_of(stream)?.last().map_or(0, |event| event.offset_in(stream.kind())));
        let heads = streams.iter().map(last).collect();
        self.delay().await;
        heads
    }

    async fn page(&self, stream: &StreamKey, after: Offset) -> Result<Page, Unavailable> {
        self.pages.fetch_add(1, Ordering::SeqCst);
        let all = self.events_of(stream);
        self.delay().await;
        let all = all?;
        let head = all.last().map_or(0, |event| event.offset_in(stream.kind()));
        let events = all.into_iter().filter(|event| event.offset_in(stream.kind()) > after).take(128).collect();
        Ok(Page { events, head })
    }
}

/// An outbox in memory, on tokio's clock.
#[derive(Default)]
pub struct MemoryOutbox(Mutex<OutboxRows>);

#[derive(Default)]
struct OutboxRows {
    /// Not claimed: webhook, attempts made, due.
    pending: HashMap<DeliveryId, (OwnedWebhook, u16, Instant)>,
    /// Claimed and not ended: attempts made.
    claimed: HashMap<DeliveryId, u16>,
    claims: usize,
    ended: Vec<(DeliveryId, Next)>,
    down: bool,
}

impl MemoryOutbox {
    fn rows(&self) -> MutexGuard<'_, OutboxRows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Owes a webhook something, due now.
    pub fn owe(&self, webhook: OwnedWebhook) -> DeliveryId {
        let id = DeliveryId::generate();
        self.rows().pending.insert(id, (webhook, 0, Instant::now()));
        id
    }

    /// Claims made so far.
    #[must_use]
    pub fn claims(&self) -> usize {
        self.rows().claims
    }

    /// Claimed, and neither recorded nor given back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.rows().claimed.len()
    }

    /// How deliveries ended, in order.
    #[must_use]
    pub fn ended(&self) -> Vec<(DeliveryId, Next)> {
        self.rows().ended.clone()
    }

    /// Has every question fail, or no longer.
    pub fn set_down(&self, down: bool) {
        self.rows().down = down;
    }
}

#[async_trait]
impl Deliveries for MemoryOutbox {
    async fn claim(&self, webhook: &OwnedWebhook, limit: usize) -> Result<Claim, Unavailable> {
        let (mut rows, now) = (self.rows(), Instant::now());
        if rows.down {
            return Err(Unavailable);
        }
        rows.claims += 1;
        let theirs = |(id, (owner, attempts, due)): (&DeliveryId, &(OwnedWebhook, u16, Instant))| {
            (*owner == *webhook).then_some((*due, *id, *attempts))
        };
        let mut waiting: Vec<_> = rows.pending.iter().filter_map(theirs).collect();
        waiting.sort_unstable();
        let due: Vec<_> = waiting.iter().filter(|(due, ..)| *due <= now).take(limit).copied().collect();
        for (_, id, attempts) in &due {
            rows.pending.remove(id);
            rows.claimed.insert(*id, *attempts);
        }
        let next_due = waiting.get(due.len()).map(|(due, ..)| due.saturating_duration_since(now));
        let target = Target {
            webhook: webhook.id,
            app: webhook.app.clone(),
            url: "https://example.com/".to_owned(),
            secrets: Vec::new(),
            backoff: Backoff { first: Duration::from_secs(1), retries: 5 },
            payload: Default::default(),
        };
        Ok(Claim {
            target: Some(Arc::new(target)),
            deliveries: due
                .into_iter()
                .map(|(_, id, attempts)| Delivery { id, attempt: attempts + 1, event: event("alice", 1, 1) })
                .collect(),
            next_due,
            age: Duration::ZERO,
        })
    }

    async fn record(&self, webhook: &OwnedWebhook, attempts: &[Attempt]) -> Result<(), Unavailable> {
        let mut rows = self.rows();
        if rows.down {
            return Err(Unavailable);
        }
        for Attempt { delivery, next, .. } in attempts {
            rows.claimed.remove(&delivery.id);
            match next {
                Next::RetryIn(pause) => {
                    rows.pending.insert(delivery.id, (webhook.clone(), delivery.attempt, Instant::now() + *pause));
                }
                ended => rows.ended.push((delivery.id, *ended)),
            }
        }
        Ok(())
    }

    async fn release(&self, webhook: &OwnedWebhook, deliveries: &[DeliveryId]) -> Result<(), Unavailable> {
        let (mut rows, now) = (self.rows(), Instant::now());
        for id in deliveries {
            if let Some(attempts) = rows.claimed.remove(id) {
                rows.pending.insert(*id, (webhook.clone(), attempts, now));
            }
        }
        Ok(())
    }

    async fn with_work(&self) -> Result<Vec<OwnedWebhook>, Unavailable> {
        let rows = self.rows();
        if rows.down {
            Err(Unavailable)
        } else {
            Ok(rows.pending.values().map(|(webhook, ..)| webhook.clone()).collect())
        }
    }

    async fn free_leases(&self) -> Result<Vec<OwnedWebhook>, Unavailable> {
        Ok(Vec::new())
    }
}

/// How a [`ScriptedSender`] answers.
pub type Script = dyn Fn(&Target, &Delivery) -> Option<Verdict> + Send + Sync;

/// Answers by a script after a pause, and keeps what it was asked to send, with the moment. Panics where the script has
/// no answer.
pub struct ScriptedSender {
    script: Box<Script>,
    takes: Duration,
    sent: Mutex<Vec<(WebhookId, DeliveryId, Instant)>>,
}

impl ScriptedSender {
    /// Every request takes `takes`. `None` from `script`: the sender panics.
    #[must_use]
    pub fn new(
        takes: Duration,
        script: impl Fn(&Target, &Delivery) -> Option<Verdict> + Send + Sync + 'static,
    ) -> Self {
        Self { script: Box::new(script), takes, sent: Mutex::default() }
    }

    /// Every attempt so far: webhook, delivery and moment.
    #[must_use]
    pub fn sent(&self) -> Vec<(WebhookId, DeliveryId, Instant)> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl WebhookSender for ScriptedSender {
    async fn send(&self, target: &Target, delivery: &Delivery) -> Report {
        let sent = (target.webhook, delivery.id, Instant::now());
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).push(sent);
        tokio::time::sleep(self.takes).await;
        Report {
            verdict: (self.script)(target, delivery).expect("the script has an answer"),
            status_code: None,
            response_time: self.takes,
            response_body: None,
            response_headers: None,
            error: None,
            payload: String::new(),
        }
    }
}
