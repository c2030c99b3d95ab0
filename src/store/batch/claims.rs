//! The first step of a transaction: idempotency keys are taken.

use oriva_hub_actors::model::{AppId, NotificationId, Timestamp};
use serde::de::{DeserializeOwned, Error as _};

use crate::store::{
    append::{Expire, IdempotencyClaim, KeyedOutcome, Outcome, ReadAll, Submission, Work},
    event::NewEvent,
    notification::NewNotification,
};

/// The first step: which submissions are still to be done.
pub(in crate::store) struct Claims<'a> {
    pub now: Timestamp,
    pub(super) submissions: &'a [Submission],
    /// Outcomes that are known before anything is written.
    pub(super) settled: Vec<Option<Outcome>>,
}

impl<'a> Claims<'a> {
    pub(in crate::store) fn new(submissions: &'a [Submission], now: Timestamp) -> Self {
        Self { now, submissions, settled: submissions.iter().map(|_| None).collect() }
    }

    /// Whether everything is known that this batch writes, but for offsets: nothing has to be claimed, read or locked
    /// before.
    pub(in crate::store) fn need_nothing(&self) -> bool {
        self.submissions.iter().all(|submission| {
            submission.claim.is_none()
                && match &submission.work {
                    Work::Publish(publish) => publish.event.dismisses().is_none(),
                    Work::PublishBatch(batch) => batch.items.iter().flatten().all(|event| event.dismisses().is_none()),
                    Work::Create(create) => create.notification.content.external_id.is_none(),
                    Work::CreateBatch(batch) => {
                        batch.items.iter().flatten().all(|new| new.content.external_id.is_none())
                    }
                    _ => false,
                }
        })
    }

    /// All claims, sorted, so that every node takes them in the same order. Each with the index of its submission.
    pub(in crate::store) fn keys(&self) -> Vec<(usize, &'a AppId, &'a IdempotencyClaim)> {
        let claims = self.submissions.iter().enumerate();
        let mut claims: Vec<_> =
            claims.filter_map(|(index, one)| Some((index, &one.app_id, one.claim.as_ref()?))).collect();
        claims.sort_by(|(_, app, claim), (_, other_app, other)| (app, &claim.key).cmp(&(other_app, &other.key)));
        claims
    }

    /// Settles a submission whose key an earlier request has. `hash` and `answer` are that request's.
    ///
    /// # Errors
    /// Where the kept answer cannot be read, or the operation takes no key.
    pub(in crate::store) fn settle(
        &mut self,
        index: usize,
        hash: &[u8],
        answer: &str,
    ) -> Result<(), serde_json::Error> {
        fn outcome<T: DeserializeOwned>(is_same: bool, answer: &str) -> Result<KeyedOutcome<T>, serde_json::Error> {
            if is_same { Ok(KeyedOutcome::Replayed(serde_json::from_str(answer)?)) } else { Ok(KeyedOutcome::Mismatch) }
        }
        let Submission { work, claim, .. } = &self.submissions[index];
        let is_same = claim.as_ref().is_some_and(|claim| claim.request_hash == hash);
        self.settled[index] = match work {
            Work::Publish(_) => Some(Outcome::Publish(outcome(is_same, answer)?)),
            Work::PublishBatch(_) => Some(Outcome::PublishBatch(outcome(is_same, answer)?)),
            Work::Create(_) => Some(Outcome::Create(Ok(outcome(is_same, answer)?))),
            Work::CreateBatch(_) => Some(Outcome::CreateBatch(outcome(is_same, answer)?)),
            Work::Change(_) | Work::Delete(_) | Work::ReadAll(_) | Work::Expire(_) => {
                return Err(serde_json::Error::custom("the operation takes no idempotency key"));
            }
        };
        Ok(())
    }

    /// The submissions that are still to be done, each with its index.
    fn unsettled(&self) -> impl Iterator<Item = (usize, &'a Submission)> + '_ {
        self.submissions.iter().enumerate().filter(|(index, _)| self.settled[*index].is_none())
    }

    /// Notifications to insert, sorted by app and external id, so that every node inserts them in the same order.
    pub(in crate::store) fn insertions(&self) -> Vec<Insertion<'a>> {
        let mut insertions = Vec::new();
        for (_, Submission { app_id, work, .. }) in self.unsettled() {
            match work {
                Work::Create(create) => insertions.push(Insertion { app_id, new: &create.notification }),
                Work::CreateBatch(create) => {
                    insertions.extend(create.items.iter().flatten().map(|new| Insertion { app_id, new }));
                }
                _ => {}
            }
        }
        insertions.sort_by(|one, other| one.key().cmp(&other.key()));
        insertions
    }

    /// Ids of the notifications that are changed or deleted one by one.
    pub(in crate::store) fn target_ids(&self) -> Vec<NotificationId> {
        let mut ids = Vec::new();
        for (_, submission) in self.unsettled() {
            match &submission.work {
                Work::Change(change) => ids.push(change.id),
                Work::Delete(delete) => ids.push(delete.id),
                Work::Publish(publish) => ids.extend(publish.event.dismisses()),
                Work::PublishBatch(batch) => ids.extend(batch.items.iter().flatten().filter_map(NewEvent::dismisses)),
                _ => {}
            }
        }
        ids
    }

    pub(in crate::store) fn read_alls(&self) -> Vec<(usize, &'a ReadAll)> {
        self.unsettled()
            .filter_map(|(index, submission)| match &submission.work {
                Work::ReadAll(all) => Some((index, all)),
                _ => None,
            })
            .collect()
    }

    pub(in crate::store) fn expiries(&self) -> Vec<(usize, &'a Expire)> {
        self.unsettled()
            .filter_map(|(index, submission)| match &submission.work {
                Work::Expire(expire) => Some((index, expire)),
                _ => None,
            })
            .collect()
    }
}

/// A notification to insert.
#[derive(Clone, Copy)]
pub(in crate::store) struct Insertion<'a> {
    pub app_id: &'a AppId,
    pub new: &'a NewNotification,
}

impl<'a> Insertion<'a> {
    /// App and external id, which the database keeps unique.
    pub(in crate::store) fn key(&self) -> (&'a AppId, Option<&'a str>) {
        (self.app_id, self.new.content.external_id.as_deref())
    }
}
