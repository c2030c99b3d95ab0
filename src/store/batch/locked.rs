//! The second step of a transaction: what the decisions need is read and locked.

use std::collections::{HashMap, HashSet};

use oriva_hub_actors::model::{AppId, NotificationId};

use super::claims::{Claims, Insertion};
use crate::store::notification::NotificationRecord;

/// The second step: everything that the decisions need, read and locked until the transaction ends.
pub(in crate::store) struct Locked<'a> {
    pub(super) claims: Claims<'a>,
    inserted: HashSet<NotificationId>,
    /// The notifications that external ids belong to.
    owners: HashMap<(AppId, String), NotificationId>,
    pub(super) records: HashMap<NotificationId, NotificationRecord>,
    /// Notifications that a submission over many of them found, by the submission's index.
    pub(super) selected: HashMap<usize, Vec<NotificationId>>,
}

impl<'a> Locked<'a> {
    /// Nothing is read yet.
    pub(in crate::store) fn new(claims: Claims<'a>) -> Self {
        Self {
            claims,
            inserted: HashSet::new(),
            owners: HashMap::new(),
            records: HashMap::new(),
            selected: HashMap::new(),
        }
    }

    pub(in crate::store) fn claims(&self) -> &Claims<'a> {
        &self.claims
    }

    /// `inserted` were inserted. The others have an external id that belongs to another notification.
    pub(in crate::store) fn set_inserted(
        &mut self,
        inserted: HashSet<NotificationId>,
        owners: HashMap<(AppId, String), NotificationId>,
    ) {
        self.inserted = inserted;
        self.owners = owners;
    }

    pub(in crate::store) fn add_records(&mut self, records: Vec<NotificationRecord>) {
        self.records.extend(records.into_iter().map(|record| (record.id, record)));
    }

    /// The notifications that a submission is for, in the order in which it changes them.
    pub(in crate::store) fn select(&mut self, index: usize, ids: Vec<NotificationId>) {
        self.selected.insert(index, ids);
    }

    /// The notification that has the external id of one that was not inserted.
    pub(in crate::store) fn owner(&self, insertion: Insertion<'_>) -> Option<NotificationId> {
        if self.inserted.contains(&insertion.new.id) {
            return None;
        }
        let (app, external_id) = insertion.key();
        self.owners.get(&(app.clone(), external_id?.to_owned())).copied()
    }
}
