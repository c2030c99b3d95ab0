//! The third step of a transaction: outcomes, events and new states.

use std::collections::{HashMap, HashSet};

use oriva_hub_actors::model::{AppId, EventId, NotificationId, Timestamp};

use super::{
    claims::Insertion,
    locked::Locked,
    stream_offsets::{StreamCounts, streams_of},
};
use crate::store::{
    append::{
        Create, CreateBatch, DuplicateExternalId, Expire, KeyedOutcome, Origin, Outcome, Progress, Publish,
        PublishBatch, ReadAll, Submission, Work,
    },
    event::NewEvent,
    notification::{ChangeError, NewNotification, NotificationRecord},
    receipts::{BatchItem, ItemError, NotificationReceipt, NotificationReceipts, NotificationResult},
    status::Status,
};

/// The third step: outcomes and events.
pub(in crate::store) struct Decided<'a> {
    pub now: Timestamp,
    pub(super) submissions: &'a [Submission],
    /// What becomes of each submission, with its index. In the order in which events are numbered.
    pub(super) drafts: Vec<(usize, Draft)>,
    records: HashMap<NotificationId, NotificationRecord>,
    changed: HashSet<NotificationId>,
    deleted: Vec<NotificationId>,
    /// Published events that dismissed a notification.
    dismissing: HashSet<EventId>,
}

impl<'a> Decided<'a> {
    /// Decides every submission, in the order of [`Work::rank`], on one set of records: what one decides, the next sees.
    pub(in crate::store) fn new(mut locked: Locked<'a>) -> Self {
        let mut decided = Self {
            now: locked.claims.now,
            submissions: locked.claims.submissions,
            drafts: Vec::with_capacity(locked.claims.submissions.len()),
            records: std::mem::take(&mut locked.records),
            changed: HashSet::new(),
            deleted: Vec::new(),
            dismissing: HashSet::new(),
        };
        let mut settled = std::mem::take(&mut locked.claims.settled);
        for index in ranked(decided.submissions) {
            let draft = match settled[index].take() {
                Some(outcome) => Draft::without_events(outcome),
                None => decided.decide(index, &locked),
            };
            decided.drafts.push((index, draft));
        }
        decided
    }

    fn decide(&mut self, index: usize, locked: &Locked<'a>) -> Draft {
        let (now, app_id) = (self.now, &self.submissions[index].app_id);
        match &self.submissions[index].work {
            Work::Publish(Publish { event }) => {
                self.dismiss(event);
                Draft::Publish(event.clone())
            }
            Work::PublishBatch(PublishBatch { items }) => {
                items.iter().flatten().for_each(|event| self.dismiss(event));
                Draft::PublishBatch(items.clone())
            }
            Work::Create(Create { from_platform, notification: new }) => {
                match locked.owner(Insertion { app_id, new }) {
                    Some(owner) => Draft::without_events(Outcome::Create(Err(DuplicateExternalId(owner)))),
                    None => {
                        let receipt = NotificationReceipt { notification_id: new.id, created_at: now };
                        let event = created_event(new, app_id, *from_platform, now);
                        Draft::Other(vec![event], Outcome::Create(Ok(KeyedOutcome::Done(receipt))))
                    }
                }
            }
            Work::CreateBatch(CreateBatch { from_platform, items }) => {
                let mut events = Vec::with_capacity(items.len());
                let results = items.iter().map(|item| {
                    let new = match item {
                        Ok(new) => new,
                        Err(error) => return NotificationResult::Rejected(error.clone()),
                    };
                    if let Some(owner) = locked.owner(Insertion { app_id, new }) {
                        return NotificationResult::Rejected(ItemError::duplicate_external_id(owner));
                    }
                    events.push(created_event(new, app_id, *from_platform, now));
                    NotificationResult::Created(NotificationReceipt { notification_id: new.id, created_at: now })
                });
                let receipts = NotificationReceipts { notifications: results.collect() };
                Draft::Other(events, Outcome::CreateBatch(KeyedOutcome::Done(receipts)))
            }
            Work::Change(change) => match self.records.get_mut(&change.id) {
                None => Draft::without_events(Outcome::Change(Err(ChangeError::NotFound))),
                Some(record) => match record.change(change, now) {
                    Err(error) => Draft::without_events(Outcome::Change(Err(error))),
                    Ok(event) => {
                        if event.is_some() {
                            self.changed.insert(change.id);
                        }
                        let outcome = Outcome::Change(Ok(Box::new(record.clone())));
                        Draft::Other(event.into_iter().collect(), outcome)
                    }
                },
            },
            Work::Delete(delete) => match self.records.get(&delete.id) {
                None => Draft::without_events(Outcome::Delete(Err(ChangeError::NotFound))),
                Some(record) if record.app_id != delete.owner => {
                    Draft::without_events(Outcome::Delete(Err(ChangeError::NotInScope)))
                }
                Some(record) => {
                    let event = record.deleted_event(now);
                    self.records.remove(&delete.id);
                    self.deleted.push(delete.id);
                    Draft::Other(vec![event], Outcome::Delete(Ok(())))
                }
            },
            Work::ReadAll(ReadAll { limit, .. }) => {
                let (events, progress) = self.transition_all(index, locked, Status::Read, *limit);
                Draft::Other(events, Outcome::ReadAll(progress))
            }
            Work::Expire(Expire { limit, .. }) => {
                let (events, progress) = self.transition_all(index, locked, Status::Expired, *limit);
                Draft::Other(events, Outcome::Expire(progress))
            }
        }
    }

    /// A published `notification.dismissed` also dismisses the notification that it names, if that is the app's own and the
    /// event's user's. The published event tells of it.
    fn dismiss(&mut self, event: &NewEvent) {
        let record = event.dismisses().and_then(|id| self.records.get_mut(&id));
        let Some(record) =
            record.filter(|record| record.app_id == event.app_id && Some(&record.user_id) == event.user_id.as_ref())
        else {
            return;
        };
        if record.dismiss_silently(&event.app_id, self.now) {
            self.changed.insert(record.id);
            self.dismissing.insert(event.id);
        }
    }

    /// Changes everything that a submission selected to `to`. What an earlier one deleted, or gave a status from which
    /// `to` cannot be reached, is left alone.
    fn transition_all(
        &mut self,
        index: usize,
        locked: &Locked<'_>,
        to: Status,
        limit: u32,
    ) -> (Vec<NewEvent>, Progress) {
        let selected = locked.selected.get(&index).map_or(&[][..], |ids| ids);
        let mut events = Vec::with_capacity(selected.len());
        for id in selected {
            let Some(record) = self.records.get_mut(id) else { continue };
            if let Some(event) = record.transition_unchecked(to, self.now) {
                self.changed.insert(*id);
                events.push(event);
            }
        }
        let progress = Progress { changed: events.len() as u64, is_complete: selected.len() < limit as usize };
        (events, progress)
    }

    /// Notifications whose state is to be stored, sorted by id.
    pub(in crate::store) fn changed(&self) -> Vec<&NotificationRecord> {
        let mut changed: Vec<_> = self.changed.iter().filter_map(|id| self.records.get(id)).collect();
        changed.sort_unstable_by_key(|record| record.id);
        changed
    }

    /// Notifications to delete.
    pub(in crate::store) fn deleted(&self) -> &[NotificationId] {
        &self.deleted
    }

    /// New events in the order in which they are numbered, each with the origin of its submission.
    pub(in crate::store) fn events(&self) -> impl Iterator<Item = (&NewEvent, &'a Origin)> {
        let submissions = self.submissions;
        self.drafts
            .iter()
            .flat_map(move |(index, draft)| draft.events().map(move |event| (event, &submissions[*index].origin)))
    }

    /// Events that the audit log records: all but those that an app published itself and that changed nothing.
    pub(in crate::store) fn audited(&self) -> impl Iterator<Item = (&NewEvent, &'a Origin)> {
        let submissions = self.submissions;
        self.drafts.iter().flat_map(move |(index, draft)| {
            let is_published = matches!(draft, Draft::Publish(_) | Draft::PublishBatch(_));
            let audited = draft.events().filter(move |event| !is_published || self.dismissing.contains(&event.id));
            audited.map(move |event| (event, &submissions[*index].origin))
        })
    }

    /// Number of new events in each stream. Sorted by kind and name: every node locks streams in this order.
    pub(in crate::store) fn stream_counts(&self) -> StreamCounts<'_> {
        let mut counts = StreamCounts::new();
        for (event, _) in self.events() {
            for stream in streams_of(event) {
                *counts.entry(stream).or_insert(0) += 1;
            }
        }
        counts
    }
}

/// What is decided of one submission: its events, and the outcome where it has no offsets in it.
pub(super) enum Draft {
    Publish(NewEvent),
    PublishBatch(Vec<BatchItem<NewEvent>>),
    Other(Vec<NewEvent>, Outcome),
}

impl Draft {
    fn without_events(outcome: Outcome) -> Self {
        Self::Other(Vec::new(), outcome)
    }

    fn events(&self) -> impl Iterator<Item = &NewEvent> {
        let (one, items, others) = match self {
            Self::Publish(event) => (Some(event), &[][..], &[][..]),
            Self::PublishBatch(items) => (None, &items[..], &[][..]),
            Self::Other(events, _) => (None, &[][..], &events[..]),
        };
        one.into_iter().chain(items.iter().flatten()).chain(others)
    }
}

fn created_event(new: &NewNotification, app: &AppId, from_platform: bool, now: Timestamp) -> NewEvent {
    new.created_event(&new.record(app, from_platform, now), now)
}

/// Indexes of submissions, in the order in which they are decided, and their events numbered.
fn ranked(submissions: &[Submission]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..submissions.len()).collect();
    order.sort_by_key(|index| submissions[*index].work.rank());
    order
}
