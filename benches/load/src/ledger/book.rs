//! What was accepted, and what came out on each path.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

/// Examples of each kind of fault that the verdict names.
const EXAMPLES: usize = 5;

/// What all parts of a run write down.
pub struct Book {
    users: Vec<Mutex<Stream>>,
    /// How often each event came to the webhook.
    arrived: Mutex<HashMap<String, u32>>,
    has_webhook: AtomicBool,
    faults: Mutex<Faults>,
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub repeated_requests: AtomicU64,
    pub delivered: AtomicU64,
    pub reloads: AtomicU64,
    pub reconnects: AtomicU64,
    /// The longest time in which no request was accepted, and in which a socket was not up to date.
    publish_outage: Mutex<Outage>,
    socket_outage: Mutex<Duration>,
}

/// A user's stream as it must be, and as the sockets saw it.
#[derive(Default)]
struct Stream {
    /// Ids of events that were answered with success.
    accepted: HashSet<String>,
    /// By offset, from the first that any socket saw. All sockets must see the same.
    seen: HashMap<u64, String>,
    ids: HashSet<String>,
    /// What the inbox must hold: unread notifications.
    pub unread: u64,
}

#[derive(Default)]
struct Faults {
    counts: HashMap<&'static str, u64>,
    examples: Vec<String>,
}

/// The last success, and the longest time between two.
struct Outage {
    last: Instant,
    longest: Duration,
}

impl Book {
    pub fn new(users: usize) -> Self {
        Self {
            users: (0..users).map(|_| Mutex::default()).collect(),
            arrived: Mutex::default(),
            has_webhook: AtomicBool::new(false),
            faults: Mutex::default(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            repeated_requests: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            publish_outage: Mutex::new(Outage { last: Instant::now(), longest: Duration::ZERO }),
            socket_outage: Mutex::default(),
        }
    }

    pub fn expect_webhooks(&self) {
        self.has_webhook.store(true, Relaxed);
    }

    fn stream(&self, user: usize) -> MutexGuard<'_, Stream> {
        lock(&self.users[user])
    }

    /// The hub answered with success: this event is to come out on every path.
    pub fn accept(&self, user: usize, event: &str) {
        self.accepted.fetch_add(1, Relaxed);
        self.stream(user).accepted.insert(event.to_owned());
        let mut outage = lock(&self.publish_outage);
        outage.longest = outage.longest.max(outage.last.elapsed());
        outage.last = Instant::now();
    }

    /// A notification was made, or one was dismissed.
    pub fn unread(&self, user: usize, change: i64) {
        let mut stream = self.stream(user);
        stream.unread = stream.unread.saturating_add_signed(change);
    }

    pub fn unread_of(&self, user: usize) -> u64 {
        self.stream(user).unread
    }

    /// A socket got an event.
    pub fn see(&self, user: usize, offset: u64, event: &str) {
        self.delivered.fetch_add(1, Relaxed);
        let mut stream = self.stream(user);
        stream.ids.insert(event.to_owned());
        match stream.seen.get(&offset) {
            Some(known) if known == event => {}
            Some(known) => {
                let example = format!("user {user}, offset {offset}: {known} at one socket, {event} at another");
                drop(stream);
                self.fault("two events under one offset", example);
            }
            None => {
                stream.seen.insert(offset, event.to_owned());
            }
        }
    }

    /// The store has another epoch: offsets mean other events.
    pub fn forget_offsets(&self, user: usize) {
        self.stream(user).seen.clear();
    }

    pub fn arrive(&self, event: &str) {
        *lock(&self.arrived).entry(event.to_owned()).or_default() += 1;
    }

    pub fn fault(&self, kind: &'static str, example: String) {
        let mut faults = lock(&self.faults);
        let count = faults.counts.entry(kind).or_default();
        *count += 1;
        if *count <= EXAMPLES as u64 {
            faults.examples.push(format!("{kind}: {example}"));
        }
    }

    /// A socket was not up to date for so long.
    pub fn socket_was_away(&self, time: Duration) {
        let mut longest = lock(&self.socket_outage);
        *longest = longest.max(time);
    }

    /// Whether everything that was accepted has come out on every path.
    pub fn is_complete(&self) -> bool {
        let arrived = lock(&self.arrived);
        self.users.iter().all(|user| {
            let stream = lock(user);
            let everywhere = |event: &String| {
                stream.ids.contains(event) && (!self.has_webhook.load(Relaxed) || arrived.contains_key(event))
            };
            stream.accepted.iter().all(everywhere)
        })
    }

    /// In one line.
    pub fn standing(&self) -> String {
        let faults: u64 = lock(&self.faults).counts.values().sum();
        format!(
            "{} accepted, {} delivered to sockets, {} arrived at the webhook, {} reconnects, {faults} faults",
            self.accepted.load(Relaxed),
            self.delivered.load(Relaxed),
            lock(&self.arrived).len(),
            self.reconnects.load(Relaxed)
        )
    }

    /// What came of it. `counts`: users whose unread count is not what it must be, with both; `None` where it could not be read.
    pub fn verdict(&self, ran: Duration, counts: Option<Vec<String>>) -> Verdict {
        let (mut lost, mut unannounced, mut lost_webhook) = (0, 0, 0);
        let (arrived, has_webhook) = (lock(&self.arrived), self.has_webhook.load(Relaxed));
        let mut examples = Vec::new();
        for (user, stream) in self.users.iter().enumerate() {
            let stream = lock(stream);
            for event in &stream.accepted {
                if !stream.ids.contains(event) {
                    lost += 1;
                    if lost <= EXAMPLES as u64 {
                        examples.push(format!("user {user}: {event} was accepted and came to no socket"));
                    }
                }
                if has_webhook && !arrived.contains_key(event) {
                    lost_webhook += 1;
                    if lost_webhook <= EXAMPLES as u64 {
                        examples.push(format!("user {user}: {event} was accepted and did not come to the webhook"));
                    }
                }
            }
            unannounced += stream.ids.difference(&stream.accepted).count() as u64;
        }
        let faults = lock(&self.faults);
        examples.extend(faults.examples.iter().cloned());
        let wrong_counts = counts.as_ref().map_or(0, Vec::len) as u64;
        let counts_unknown = counts.is_none();
        examples.extend(counts.into_iter().flatten().take(EXAMPLES));
        let fault = |kind: &str| faults.counts.get(kind).copied().unwrap_or(0);
        Verdict {
            seconds: ran.as_secs(),
            accepted: self.accepted.load(Relaxed),
            refused: self.refused.load(Relaxed),
            repeated_requests: self.repeated_requests.load(Relaxed),
            delivered_to_sockets: self.delivered.load(Relaxed),
            reconnects: self.reconnects.load(Relaxed),
            reloads: self.reloads.load(Relaxed),
            arrived_at_webhook: arrived.len() as u64,
            repeated_at_webhook: arrived.values().map(|times| u64::from(times - 1)).sum(),
            lost_to_sockets: lost,
            lost_to_webhook: lost_webhook,
            unannounced,
            never_answered: fault("never answered"),
            refused_for_good: fault("refused for good"),
            gaps: fault("gap"),
            repeated_to_sockets: fault("repeated"),
            two_under_one_offset: fault("two events under one offset"),
            bad_signatures: fault("signature"),
            wrong_counts,
            counts_unknown,
            longest_without_an_accepted_request_ms: lock(&self.publish_outage).longest.as_millis() as u64,
            longest_socket_outage_ms: lock(&self.socket_outage).as_millis() as u64,
            examples,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What came of a run.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// How long the run took.
    pub seconds: u64,
    /// Events that a request was answered for with success, those of notifications among them.
    pub accepted: u64,
    /// Answers that were a refusal; the request was sent again.
    pub refused: u64,
    /// Requests without an answer; they were sent again.
    pub repeated_requests: u64,
    /// Events that sockets got, over all sockets.
    pub delivered_to_sockets: u64,
    /// How often a socket came back.
    pub reconnects: u64,
    /// How often a socket was told that it cannot resume.
    pub reloads: u64,
    /// Different events that came to the webhook.
    pub arrived_at_webhook: u64,
    /// Requests to the webhook beyond the first for an event.
    pub repeated_at_webhook: u64,
    /// Accepted events that no socket of their user got.
    pub lost_to_sockets: u64,
    /// Accepted events that did not come to the webhook.
    pub lost_to_webhook: u64,
    /// Events that came out although no request was answered for them: none was, or its answer was lost for good.
    pub unannounced: u64,
    /// Requests that never had an answer.
    pub never_answered: u64,
    /// Requests that no repeat would mend.
    pub refused_for_good: u64,
    /// Times that a socket got an offset that does not follow the one before.
    pub gaps: u64,
    /// Times that a socket got an offset again.
    pub repeated_to_sockets: u64,
    /// Offsets under which two sockets of a user got different events.
    pub two_under_one_offset: u64,
    /// Requests to the webhook whose signature is wrong.
    pub bad_signatures: u64,
    /// Users whose unread count is wrong.
    pub wrong_counts: u64,
    /// Whether the counts could not be read.
    pub counts_unknown: bool,
    /// In milliseconds.
    pub longest_without_an_accepted_request_ms: u64,
    /// The longest time from when a socket was lost until it was up to date again, in milliseconds.
    pub longest_socket_outage_ms: u64,
    /// Some of what is wrong.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Whether everything that was promised was kept. Webhooks may come twice, and requests may be refused.
    pub fn is_good(&self) -> bool {
        let faults = self.lost_to_sockets
            + self.lost_to_webhook
            + self.gaps
            + self.repeated_to_sockets
            + self.two_under_one_offset
            + self.bad_signatures
            + self.never_answered
            + self.refused_for_good
            + self.wrong_counts;
        faults == 0 && !self.counts_unknown && self.accepted > 0
    }

    /// For people.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let ms = |ms: u64| format!("{:.1} s", ms as f64 / 1000.0);
        vec![
            ("accepted", self.accepted.to_string()),
            ("requests that were refused, and sent again", self.refused.to_string()),
            ("requests without an answer, and sent again", self.repeated_requests.to_string()),
            ("delivered to sockets", self.delivered_to_sockets.to_string()),
            ("reconnects", self.reconnects.to_string()),
            ("sockets told to reload", self.reloads.to_string()),
            ("lost to sockets", self.lost_to_sockets.to_string()),
            ("offsets left out at a socket", self.gaps.to_string()),
            ("offsets repeated or out of order at a socket", self.repeated_to_sockets.to_string()),
            ("two events under one offset", self.two_under_one_offset.to_string()),
            ("events nobody was told were accepted", self.unannounced.to_string()),
            ("requests refused for good, or never answered", (self.refused_for_good + self.never_answered).to_string()),
            ("arrived at the webhook", self.arrived_at_webhook.to_string()),
            ("of them repeated (at least once is promised)", self.repeated_at_webhook.to_string()),
            ("lost to the webhook", self.lost_to_webhook.to_string()),
            ("wrong signatures", self.bad_signatures.to_string()),
            (
                "users with a wrong unread count",
                if self.counts_unknown { "unknown".to_owned() } else { self.wrong_counts.to_string() },
            ),
            ("longest time without an accepted request", ms(self.longest_without_an_accepted_request_ms)),
            ("longest time a socket was not up to date", ms(self.longest_socket_outage_ms)),
        ]
    }
}
