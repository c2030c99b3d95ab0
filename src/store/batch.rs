//! One transaction's submissions while it is written: what both stores do alike. Deciding, counting, numbering,
//! answering; the SQL between is theirs.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::Arc,
};

use oriva_hub_actors::{
    model::{
        AppId, Event, EventId, NotificationId, Offset, Offsets, StreamKey, Timestamp, TraceParent, UserId, WebhookId,
    },
    protocol::PublishedEvent,
};

use super::{
    append::{Appended, Creation, IdempotencyClaim, NewEvent, Origin, Outcome, ReadAll, Receipt, Submission, Work},
    notification::{Change, ChangeError, NewNotification, NotificationRecord},
    status::Status,
    webhook::PendingDelivery,
};

/// Submissions, what is decided of each, and the events it became.
pub(super) struct Batch<'a> {
    pub now: Timestamp,
    items: Vec<Item<'a>>,
}

struct Item<'a> {
    submission: &'a Submission,
    events: Cow<'a, [NewEvent]>,
    draft: Draft,
}

enum Draft {
    Open,
    /// A creation whose rows are written: the external ids' first owners, by slot.
    Created(HashMap<usize, NotificationId>),
    Settled(Outcome),
}

/// A notification to be inserted, and where it came from.
pub(super) struct Planned<'a> {
    item: usize,
    slot: usize,
    pub app_id: &'a AppId,
    pub new: &'a NewNotification,
    from_platform: bool,
}

/// A committed event to be, with what is stored beside it.
pub(super) struct EventRow<'a> {
    pub published: Arc<PublishedEvent>,
    pub origin: &'a Origin,
}

/// Events by item, numbered.
pub(super) struct Numbered<'a> {
    rows: Vec<Vec<EventRow<'a>>>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(submissions: &'a [Submission], now: Timestamp) -> Self {
        let items = submissions.iter().map(|submission| {
            let events = match &submission.work {
                Work::Publish { events, .. } => Cow::Borrowed(&events[..]),
                _ => Cow::Owned(Vec::new()),
            };
            Item { submission, events, draft: Draft::Open }
        });
        Self { now, items: items.collect() }
    }

    /// Every claim, in the order in which every node takes them.
    pub(super) fn claims(&self) -> Vec<(usize, &'a AppId, &'a IdempotencyClaim)> {
        let claim =
            |(index, item): (usize, &Item<'a>)| Some((index, &item.submission.app_id, item.submission.claim.as_ref()?));
        let mut claims: Vec<_> = self.items.iter().enumerate().filter_map(claim).collect();
        claims.sort_by(|(_, app, claim), (_, other_app, other)| (app, &claim.key).cmp(&(other_app, &other.key)));
        claims
    }

    /// A claim that an earlier request holds.
    pub(super) fn held(&mut self, item: usize, claim: &IdempotencyClaim, hash: &[u8], answer: String) {
        let outcome = if hash == claim.request_hash { Outcome::Replayed { answer } } else { Outcome::Mismatch };
        self.complete(item, outcome);
    }

    fn complete(&mut self, item: usize, outcome: Outcome) {
        self.items[item].draft = Draft::Settled(outcome);
        self.items[item].events = Cow::Owned(Vec::new());
    }

    fn open(&self) -> impl Iterator<Item = (usize, &'a Work)> + '_ {
        let is_open = |(_, item): &(usize, &Item<'a>)| matches!(item.draft, Draft::Open);
        self.items.iter().enumerate().filter(is_open).map(|(index, item)| (index, &item.submission.work))
    }

    /// Notifications to insert, in the order in which every node does.
    pub(super) fn planned(&self) -> Vec<Planned<'a>> {
        let mut planned = Vec::new();
        for (item, work) in self.open() {
            let Work::Create(Creation { slots, from_platform, .. }) = work else { continue };
            let app_id = &self.items[item].submission.app_id;
            for (slot, new) in slots.iter().enumerate() {
                if let Ok(new) = new {
                    planned.push(Planned { item, slot, app_id, new, from_platform: *from_platform });
                }
            }
        }
        let key = |planned: &Planned<'a>| (planned.app_id, planned.new.content.external_id.as_deref());
        planned.sort_by(|one, other| key(one).cmp(&key(other)));
        planned
    }

    /// What the inserts did: `owner` is the notification that had the external id before, where there is one.
    pub(super) fn created(&mut self, planned: &[Planned<'a>], owner: impl Fn(&Planned<'a>) -> Option<NotificationId>) {
        let now = self.now;
        let creations: Vec<usize> =
            self.open().filter(|(_, work)| matches!(work, Work::Create(_))).map(|(index, _)| index).collect();
        for index in creations {
            self.items[index].draft = Draft::Created(HashMap::new());
        }
        // In the order of the request again: so are the events numbered.
        let mut in_order: Vec<&Planned<'a>> = planned.iter().collect();
        in_order.sort_by_key(|planned| (planned.item, planned.slot));
        for planned in in_order {
            let item = &mut self.items[planned.item];
            match (owner(planned), &mut item.draft) {
                (Some(owner), Draft::Created(duplicates)) => {
                    duplicates.insert(planned.slot, owner);
                }
                _ => {
                    let record = planned.new.record(planned.app_id, planned.from_platform, now);
                    item.events.to_mut().push(planned.new.created_event(&record, now));
                }
            }
        }
    }

    /// Notifications that somebody wants to change.
    pub(super) fn changed_ids(&self) -> Vec<NotificationId> {
        let mut ids: Vec<_> = self.changes().map(|(_, change)| change.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn changes(&self) -> impl Iterator<Item = (usize, &'a Change)> + '_ {
        self.open().filter_map(|(index, work)| match work {
            Work::Change(change) => Some((index, change)),
            _ => None,
        })
    }

    /// Decides every change, given how its notification stands; those that really changed are to be stored.
    pub(super) fn change(&mut self, records: Vec<NotificationRecord>) -> Vec<NotificationRecord> {
        let mut records: HashMap<NotificationId, (NotificationRecord, bool)> =
            records.into_iter().map(|record| (record.id, (record, false))).collect();
        for (index, change) in self.changes().collect::<Vec<_>>() {
            let Some((record, touched)) = records.get_mut(&change.id) else {
                self.complete(index, Outcome::Rejected(ChangeError::NotFound));
                continue;
            };
            match record.change(change, self.now) {
                Ok(event) => {
                    *touched |= event.is_some();
                    self.complete(index, Outcome::Changed(Box::new(record.clone())));
                    self.items[index].events = Cow::Owned(event.into_iter().collect());
                }
                Err(refusal) => self.complete(index, Outcome::Rejected(refusal)),
            }
        }
        records.into_values().filter(|(_, touched)| *touched).map(|(record, _)| record).collect()
    }

    /// Deletions, in the order in which every node does them.
    pub(super) fn deletions(&self) -> Vec<(usize, NotificationId)> {
        let mut deletions: Vec<_> = self
            .open()
            .filter_map(|(index, work)| match work {
                Work::Delete { id, .. } => Some((index, *id)),
                _ => None,
            })
            .collect();
        deletions.sort_by_key(|(_, id)| *id);
        deletions
    }

    /// Whether a notification, given how it stands, is to be deleted now.
    pub(super) fn delete(&mut self, item: usize, record: Option<&NotificationRecord>) -> bool {
        let Work::Delete { owner, .. } = &self.items[item].submission.work else { return false };
        match record {
            None => self.complete(item, Outcome::Rejected(ChangeError::NotFound)),
            Some(record) if record.app_id != *owner => self.complete(item, Outcome::Rejected(ChangeError::NotInScope)),
            Some(record) => {
                self.complete(item, Outcome::Done(1));
                self.items[item].events = Cow::Owned(vec![record.deleted_event(self.now)]);
                return true;
            }
        }
        false
    }

    pub(super) fn read_alls(&self) -> Vec<(usize, &'a ReadAll)> {
        let read_all = |(index, work): (usize, &'a Work)| match work {
            Work::ReadAll(all) => Some((index, all)),
            _ => None,
        };
        self.open().filter_map(read_all).collect()
    }

    pub(super) fn expiries(&self) -> Vec<(usize, Timestamp, u32)> {
        let expiry = |(index, work): (usize, &Work)| match work {
            Work::Expire { until, limit } => Some((index, *until, *limit)),
            _ => None,
        };
        self.open().filter_map(expiry).collect()
    }

    /// Has all of these become `to`; those that did are to be stored.
    pub(super) fn transition_unchecked(
        &mut self,
        item: usize,
        records: Vec<NotificationRecord>,
        to: Status,
    ) -> Vec<NotificationRecord> {
        let (now, mut events, mut changed) = (self.now, Vec::new(), Vec::new());
        for mut record in records {
            if let Some(event) = record.transition_unchecked(to, now) {
                events.push(event);
                changed.push(record);
            }
        }
        self.complete(item, Outcome::Done(changed.len() as u64));
        self.items[item].events = Cow::Owned(events);
        changed
    }

    /// How many events each stream gets, in key order: the order in which every node locks them.
    pub(super) fn stream_counts(&self) -> BTreeMap<(&'static str, String), u64> {
        let mut counts = BTreeMap::new();
        for event in self.items.iter().flat_map(|item| item.events.iter()) {
            for stream in [StreamKey::App(event.app_id.clone()), holder(event.user_id.as_ref())] {
                *counts.entry((stream.kind().as_str(), stream.name().to_owned())).or_insert(0) += 1;
            }
        }
        counts
    }

    /// Numbers the events within streams that were raised for them.
    pub(super) fn number(&self, mut numbering: Numbering) -> Numbered<'a> {
        let mut order: Vec<usize> = (0..self.items.len()).collect();
        order.sort_by_key(|index| self.items[*index].submission.work.rank());
        let mut rows: Vec<Vec<EventRow<'a>>> = self.items.iter().map(|_| Vec::new()).collect();
        for index in order {
            let item = &self.items[index];
            let origin = &item.submission.origin;
            rows[index] = item
                .events
                .iter()
                .map(|event| EventRow { published: numbering.publish(event, self.now, origin.trace), origin })
                .collect();
        }
        Numbered { rows }
    }

    /// Whether this submission's events are written down in the audit log: not those that an app published itself.
    fn is_audited(&self, item: usize) -> bool {
        !matches!(self.items[item].submission.work, Work::Publish { .. })
    }

    /// Settles what is left, with the answers as they are sent.
    pub(super) fn answer(&mut self, numbered: &Numbered<'a>) {
        let now = self.now;
        for (item, rows) in self.items.iter_mut().zip(&numbered.rows) {
            let outcome = match (&item.draft, &item.submission.work) {
                (Draft::Open, Work::Publish { receipt, .. }) => Outcome::Written { answer: receipt.answer(rows) },
                (Draft::Created(duplicates), Work::Create(creation)) => creation.answer(duplicates, now),
                _ => continue,
            };
            item.draft = Draft::Settled(outcome);
        }
    }

    /// Answers to be kept for their claims; `None` where there is nothing worth keeping and the claim is to be let go.
    pub(super) fn kept_answers(&self) -> Vec<(&'a AppId, &'a IdempotencyClaim, Option<&str>)> {
        let kept = |item: &Item<'a>| match (&item.submission.claim, &item.draft) {
            (None, _) | (_, Draft::Settled(Outcome::Replayed { .. } | Outcome::Mismatch)) => None,
            (Some(claim), _) => Some((&item.submission.app_id, claim)),
        };
        let answer = |draft| match draft {
            &Draft::Settled(Outcome::Written { ref answer }) => Some(answer.as_str()),
            _ => None,
        };
        let all = self.items.iter().filter_map(|item| Some((kept(item)?, answer(&item.draft))));
        all.map(|((app, claim), answer)| (app, claim, answer)).collect()
    }

    /// What became of everything, in the order of the submissions.
    pub(super) fn finish(self, numbered: Numbered<'a>, pending: &[PendingDelivery]) -> Vec<Appended> {
        let mut webhooks: HashMap<EventId, Vec<WebhookId>> = HashMap::new();
        for pending in pending {
            webhooks.entry(pending.event_id).or_default().push(pending.webhook);
        }
        let outcome = |draft| match draft {
            Draft::Settled(outcome) => outcome,
            Draft::Open | Draft::Created(_) => Outcome::Done(0),
        };
        self.items
            .into_iter()
            .zip(numbered.rows)
            .map(|(item, rows)| {
                let events: Vec<_> = rows.into_iter().map(|row| row.published).collect();
                let enqueued_for =
                    events.iter().filter_map(|event| webhooks.remove(&event.event().id)).flatten().collect();
                Appended { events, enqueued_for, outcome: outcome(item.draft) }
            })
            .collect()
    }
}

impl<'a> Numbered<'a> {
    /// Every event to insert.
    pub(super) fn events(&self) -> impl Iterator<Item = &EventRow<'a>> {
        self.rows.iter().flatten()
    }

    pub(super) fn published(&self) -> impl Iterator<Item = &Arc<PublishedEvent>> {
        self.events().map(|row| &row.published)
    }

    /// Events that the audit log tells of.
    pub(super) fn audited<'b>(&'b self, batch: &'b Batch<'a>) -> impl Iterator<Item = &'b EventRow<'a>> {
        self.rows.iter().enumerate().filter(|(item, _)| batch.is_audited(*item)).flat_map(|(_, rows)| rows)
    }
}

fn holder(user: Option<&UserId>) -> StreamKey {
    user.cloned().map_or(StreamKey::Broadcast, StreamKey::User)
}

/// Gives out offsets within streams that were raised for it.
#[derive(Default)]
pub(super) struct Numbering {
    next: HashMap<(String, String), Offset>,
}

impl Numbering {
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

    fn publish(&mut self, event: &NewEvent, created_at: Timestamp, trace: Option<TraceParent>) -> Arc<PublishedEvent> {
        let app = self.take(&StreamKey::App(event.app_id.clone()));
        let held = self.take(&holder(event.user_id.as_ref()));
        let (user, broadcast) = if event.user_id.is_some() { (Some(held), None) } else { (None, Some(held)) };
        PublishedEvent::new(Event {
            id: event.id,
            app_id: event.app_id.clone(),
            user_id: event.user_id.clone(),
            category: event.category,
            event_type: event.event_type.clone(),
            entity_type: event.entity_type.clone(),
            entity_id: event.entity_id.clone(),
            data: event.data.clone(),
            timestamp: event.timestamp,
            created_at,
            from_platform: event.from_platform,
            offsets: Offsets { app, user, broadcast },
            trace,
        })
    }
}

impl Receipt {
    /// The answer to a request whose events became these, in order.
    fn answer(&self, rows: &[EventRow<'_>]) -> String {
        let item = |row: &EventRow<'_>| {
            let event = row.published.event();
            format!(r#"{{"event_id":"{}","timestamp":"{}","offset":{}}}"#, event.id, event.timestamp, event.offsets.app)
        };
        match self {
            Self::One => rows.first().map(item).unwrap_or_default(),
            Self::Batch(slots) => {
                let mut rows = rows.iter();
                let items = slots.iter().map(|slot| match slot {
                    Some(error) => error.clone(),
                    None => rows.next().map(item).unwrap_or_default(),
                });
                list("events", items)
            }
        }
    }
}

impl Creation {
    /// The answer, where these slots' external ids were others' already.
    fn answer(&self, duplicates: &HashMap<usize, NotificationId>, now: Timestamp) -> Outcome {
        let item = |new: &NewNotification| format!(r#"{{"notification_id":"{}","created_at":"{now}"}}"#, new.id);
        if !self.is_batch {
            return match (duplicates.get(&0), self.slots.first()) {
                (Some(owner), _) => Outcome::Duplicate(*owner),
                (None, Some(Ok(new))) => Outcome::Written { answer: item(new) },
                (None, _) => Outcome::Done(0),
            };
        }
        let items = self.slots.iter().enumerate().map(|(slot, new)| match (duplicates.get(&slot), new) {
            (Some(owner), _) => (self.duplicate)(*owner),
            (None, Ok(new)) => item(new),
            (None, Err(error)) => error.clone(),
        });
        Outcome::Written { answer: list("notifications", items) }
    }
}

fn list(name: &str, items: impl Iterator<Item = String>) -> String {
    let mut out = String::new();
    let _ = write!(out, r#"{{"{name}":["#);
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&item);
    }
    out.push_str("]}");
    out
}
