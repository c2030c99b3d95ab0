//! What an append is made of, and the part of it that both stores do alike: counting, numbering, answering.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    net::IpAddr,
    sync::Arc,
};

use oriva_hub_actors::model::{
    AppId, Category, Event, EventId, EventType, JsonObject, Offset, Offsets, Published, StreamKey, Timestamp, UserId,
};

/// A validated event that is not yet stored.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub id: EventId,
    /// `None` in a broadcast.
    pub user_id: Option<UserId>,
    pub category: Category,
    pub event_type: EventType,
    pub entity_type: String,
    pub entity_id: String,
    pub data: JsonObject,
    pub timestamp: Timestamp,
    pub ip: Option<IpAddr>,
    pub user_agent: Option<Arc<str>>,
}

/// What one request wants written, all of it or nothing.
#[derive(Debug, Clone)]
pub struct Submission {
    pub app_id: AppId,
    pub from_platform: bool,
    pub events: Vec<NewEvent>,
    pub receipt: Receipt,
    pub claim: Option<IdempotencyClaim>,
}

/// An `Idempotency-Key` and what it stands for (contract §4).
#[derive(Debug, Clone)]
pub struct IdempotencyClaim {
    pub key: String,
    /// SHA-256 of route and body.
    pub request_hash: [u8; 32],
    pub expires_at: Timestamp,
}

/// The shape of the answer, so that a store can keep it in the transaction that makes it true.
#[derive(Debug, Clone)]
pub enum Receipt {
    One,
    /// One slot an item of the batch: `None` for an event that is written, or the item's error as JSON.
    Batch(Vec<Option<String>>),
}

/// What became of a submission.
#[derive(Debug, Clone)]
pub enum Appended {
    /// Written. The answer is a JSON text.
    Written { events: Vec<Arc<Published>>, answer: String },
    /// Its key was claimed by an earlier request with the same content, which was answered so.
    Replayed { answer: String },
    /// Its key was claimed by an earlier request with other content.
    Mismatch,
}

impl Receipt {
    /// The answer to a request whose events became these, in order.
    #[must_use]
    pub fn answer(&self, events: &[Arc<Published>]) -> String {
        let mut out = String::new();
        match self {
            Self::One => {
                if let Some(published) = events.first() {
                    write_item(&mut out, published);
                }
            }
            Self::Batch(slots) => {
                let mut events = events.iter();
                out.push_str(r#"{"events":["#);
                for (index, slot) in slots.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    match slot {
                        Some(error) => out.push_str(error),
                        None => {
                            if let Some(published) = events.next() {
                                write_item(&mut out, published);
                            }
                        }
                    }
                }
                out.push_str("]}");
            }
        }
        out
    }
}

fn write_item(out: &mut String, published: &Published) {
    let event = published.event();
    let _ = write!(
        out,
        r#"{{"event_id":"{}","timestamp":"{}","offset":{}}}"#,
        event.id, event.timestamp, event.offsets.app
    );
}

/// How many events each stream gets, in key order: the order in which every node locks them.
pub(super) fn tally<'a>(submissions: impl Iterator<Item = &'a Submission>) -> BTreeMap<(&'static str, String), u64> {
    let mut counts = BTreeMap::new();
    for submission in submissions {
        for event in &submission.events {
            let holder = event.user_id.clone().map_or(StreamKey::Broadcast, StreamKey::User);
            for stream in [StreamKey::App(submission.app_id.clone()), holder] {
                *counts.entry((stream.kind().as_str(), stream.name().to_owned())).or_insert(0) += 1;
            }
        }
    }
    counts
}

/// Gives out offsets within streams that were raised for it.
pub(super) struct Numbering {
    next: HashMap<(String, String), Offset>,
    created_at: Timestamp,
}

impl Numbering {
    pub(super) fn new(created_at: Timestamp) -> Self {
        Self { next: HashMap::new(), created_at }
    }

    /// Notes that a stream was raised by `count` to `last`.
    pub(super) fn raised(&mut self, kind: String, key: String, last: Offset, count: u64) {
        self.next.insert((kind, key), last - count + 1);
    }

    fn take(&mut self, stream: &StreamKey) -> Offset {
        let next = self.next.entry((stream.kind().as_str().to_owned(), stream.name().to_owned())).or_insert(1);
        let offset = *next;
        *next += 1;
        offset
    }

    /// The submission's events as they are written.
    pub(super) fn number(&mut self, submission: &Submission) -> Vec<Arc<Published>> {
        submission
            .events
            .iter()
            .map(|event| {
                let app = self.take(&StreamKey::App(submission.app_id.clone()));
                let (user, broadcast) = match &event.user_id {
                    Some(user) => (Some(self.take(&StreamKey::User(user.clone()))), None),
                    None => (None, Some(self.take(&StreamKey::Broadcast))),
                };
                Published::new(Event {
                    id: event.id,
                    app_id: submission.app_id.clone(),
                    user_id: event.user_id.clone(),
                    category: event.category,
                    event_type: event.event_type.clone(),
                    entity_type: event.entity_type.clone(),
                    entity_id: event.entity_id.clone(),
                    data: event.data.clone(),
                    timestamp: event.timestamp,
                    created_at: self.created_at,
                    from_platform: submission.from_platform,
                    offsets: Offsets { app, user, broadcast },
                })
            })
            .collect()
    }
}

/// What an earlier holder of a claim means for a later one.
pub(super) fn judge_claim(claim: &IdempotencyClaim, held_hash: &[u8], held_answer: String) -> Appended {
    if held_hash == claim.request_hash { Appended::Replayed { answer: held_answer } } else { Appended::Mismatch }
}
