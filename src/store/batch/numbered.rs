//! The last step of a transaction: events have their offsets.

use std::{collections::HashMap, sync::Arc};

use oriva_hub_actors::{
    model::{AppId, EventId, OwnedWebhook},
    protocol::PublishedEvent,
};
use serde::Serialize;

use super::{
    decided::{Decided, Draft},
    stream_offsets::StreamOffsets,
};
use crate::store::{
    append::{Appended, KeyedOutcome, Origin, Outcome, Submission},
    event::NewEvent,
    receipts::{EventReceipt, EventReceipts, EventResult},
    webhook::PendingDelivery,
};

/// An event to insert.
pub(in crate::store) struct EventRow<'a> {
    pub published: Arc<PublishedEvent>,
    pub origin: &'a Origin,
}

/// A claim that this transaction took, and what becomes of it.
pub(in crate::store) struct Answer<'a> {
    pub app_id: &'a AppId,
    pub key: &'a str,
    /// JSON to keep. `None`: the request failed, so its claim is deleted, and the next request under the key may succeed.
    pub answer: Option<String>,
}

/// The last step: events with their offsets, and every outcome.
pub(in crate::store) struct Numbered<'a> {
    submissions: &'a [Submission],
    /// By submission.
    events: Vec<Vec<EventRow<'a>>>,
    outcomes: Vec<Outcome>,
}

impl<'a> Numbered<'a> {
    /// `offsets` gives each event its offset in both of its streams.
    pub(in crate::store) fn new(decided: Decided<'a>, mut offsets: StreamOffsets) -> Self {
        let Decided { now, submissions, drafts, .. } = decided;
        let mut numbered: Vec<_> = drafts
            .into_iter()
            .map(|(index, draft)| {
                let origin = &submissions[index].origin;
                let number = |event| EventRow { published: offsets.publish(event, now, origin.trace), origin };
                let (rows, outcome) = draft.number(number);
                (index, rows, outcome)
            })
            .collect();
        numbered.sort_unstable_by_key(|(index, ..)| *index);
        let (events, outcomes) = numbered.into_iter().map(|(_, rows, outcome)| (rows, outcome)).unzip();
        Self { submissions, events, outcomes }
    }

    /// Every event to insert.
    pub(in crate::store) fn events(&self) -> impl Iterator<Item = &EventRow<'a>> {
        self.events.iter().flatten()
    }

    /// The answers to keep, one for each claim that this transaction took.
    ///
    /// # Errors
    /// Where an answer cannot be encoded.
    pub(in crate::store) fn answers(&self) -> Result<Vec<Answer<'a>>, serde_json::Error> {
        let mut answers = Vec::new();
        for (submission, outcome) in self.submissions.iter().zip(&self.outcomes) {
            let Some(claim) = &submission.claim else { continue };
            let end = match outcome {
                Outcome::Publish(outcome) => ClaimEnd::of(outcome)?,
                Outcome::PublishBatch(outcome) => ClaimEnd::of(outcome)?,
                Outcome::Create(Ok(outcome)) => ClaimEnd::of(outcome)?,
                Outcome::CreateBatch(outcome) => ClaimEnd::of(outcome)?,
                _ => ClaimEnd::Release,
            };
            let answer = match end {
                ClaimEnd::Keep(answer) => Some(answer),
                ClaimEnd::Release => None,
                ClaimEnd::Earlier => continue,
            };
            answers.push(Answer { app_id: &submission.app_id, key: &claim.key, answer });
        }
        Ok(answers)
    }
}

/// Events that are written, and the deliveries that they are owed.
pub(in crate::store) struct Written<'a> {
    pub numbered: Numbered<'a>,
    pub pending: Vec<PendingDelivery>,
}

impl Written<'_> {
    /// What every submission wrote, in their order.
    pub(in crate::store) fn finish(self) -> Vec<Appended> {
        let mut webhooks: HashMap<EventId, Vec<OwnedWebhook>> = HashMap::new();
        for pending in self.pending {
            webhooks.entry(pending.event_id).or_default().push(pending.owned_webhook());
        }
        let appended = self.numbered.outcomes.into_iter().zip(self.numbered.events).map(|(outcome, rows)| {
            let events: Vec<_> = rows.into_iter().map(|row| row.published).collect();
            let enqueued_for = events.iter().filter_map(|event| webhooks.remove(&event.event().id)).flatten().collect();
            Appended { events, enqueued_for, outcome }
        });
        appended.collect()
    }
}

/// How a claim ends.
enum ClaimEnd {
    /// With this answer.
    Keep(String),
    /// The request failed, so the claim is deleted.
    Release,
    /// It is an earlier request's claim.
    Earlier,
}

impl ClaimEnd {
    fn of<T: Serialize>(outcome: &KeyedOutcome<T>) -> Result<Self, serde_json::Error> {
        match outcome {
            KeyedOutcome::Done(result) => serde_json::to_string(result).map(Self::Keep),
            KeyedOutcome::Replayed(_) | KeyedOutcome::Mismatch => Ok(Self::Earlier),
        }
    }
}

impl Draft {
    /// Numbers its events. Returns their rows, and the outcome.
    fn number<'a>(self, mut number: impl FnMut(NewEvent) -> EventRow<'a>) -> (Vec<EventRow<'a>>, Outcome) {
        match self {
            Self::Publish(event) => {
                let row = number(event);
                let receipt = receipt(&row.published);
                (vec![row], Outcome::Publish(KeyedOutcome::Done(receipt)))
            }
            Self::PublishBatch(items) => {
                let mut rows = Vec::with_capacity(items.len());
                let results = items.into_iter().map(|item| match item {
                    Ok(event) => {
                        let row = number(event);
                        let receipt = receipt(&row.published);
                        rows.push(row);
                        EventResult::Published(receipt)
                    }
                    Err(error) => EventResult::Rejected(error),
                });
                let events = results.collect();
                (rows, Outcome::PublishBatch(KeyedOutcome::Done(EventReceipts { events })))
            }
            Self::Other(events, outcome) => (events.into_iter().map(number).collect(), outcome),
        }
    }
}

fn receipt(published: &PublishedEvent) -> EventReceipt {
    let event = published.event();
    EventReceipt { event_id: event.id, timestamp: event.timestamp, offset: event.offsets.app }
}
