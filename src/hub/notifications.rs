//! Creating notifications, and what becomes of them with their users (contract §6).

use std::{collections::BTreeMap, sync::Arc};

use oriva_hub_actors::model::{AppId, NotificationId, Timestamp, UserId};

use super::{
    core::Hub,
    error::HubError,
    idempotency::{Idempotency, Written},
};
use crate::{
    auth::KeyHolder,
    store::{
        AccessScope, App, Appended, Change, ChangeError, Creation, FeedFilter, Lookup, NewNotification, Notification,
        NotificationRecord, Origin, Outcome, ReadAll, Status, Submission, TOTAL_CAP, Work,
    },
};

/// Notifications that one transaction of a read-all changes.
const READ_AT_ONCE: u32 = 500;

/// A notification with its app's name and icon.
#[derive(Debug)]
pub struct NotificationWithApp {
    pub notification: Notification,
    pub app: Option<Arc<App>>,
}

/// A page of a user's feed and what is said beside it.
#[derive(Debug)]
pub struct Feed {
    pub notifications: Vec<NotificationWithApp>,
    pub total: u64,
    pub total_is_capped: bool,
    pub unread: u64,
}

/// How many notifications a user has.
#[derive(Debug)]
pub struct Counts {
    pub unread: u64,
    /// Unread ones.
    pub by_app: BTreeMap<AppId, u64>,
    pub by_status: BTreeMap<Status, u64>,
}

impl Hub {
    /// Creates notifications: content, state and event of each in one transaction.
    ///
    /// # Errors
    /// [`HubError::DuplicateExternalId`] where a single one's external id is taken, and as [`Hub::publish`].
    pub async fn create_notifications(
        &self,
        caller: &KeyHolder,
        creation: Creation,
        origin: Origin,
        idempotency: Option<Idempotency>,
    ) -> Result<Written, HubError> {
        let first_over =
            creation.slots.iter().flatten().filter_map(|new: &NewNotification| new.content.expires_at).min();
        let written = self.write(&caller.app.id, origin, Work::Create(creation), idempotency).await?;
        if let Some(moment) = first_over {
            self.next_expiry.bring_forward(moment);
        }
        Ok(written)
    }

    /// Changes how a notification stands. The same again changes nothing and is no error.
    ///
    /// # Errors
    /// [`HubError::NotFound`], [`HubError::Forbidden`], [`HubError::InvalidTransition`].
    pub async fn change_notification(
        &self,
        caller: &AppId,
        change: Change,
        origin: Origin,
    ) -> Result<NotificationRecord, HubError> {
        match self.submit(caller, origin, Work::Change(change)).await?.outcome {
            Outcome::Changed(record) => Ok(*record),
            outcome => Err(refused(&outcome)),
        }
    }

    /// Deletes a notification of the caller's.
    ///
    /// # Errors
    /// [`HubError::NotFound`], [`HubError::Forbidden`].
    pub async fn delete_notification(
        &self,
        caller: &KeyHolder,
        id: NotificationId,
        origin: Origin,
    ) -> Result<(), HubError> {
        let work = Work::Delete { id, owner: caller.app.id.clone() };
        match self.submit(&caller.app.id, origin, work).await?.outcome {
            Outcome::Done(_) => Ok(()),
            outcome => Err(refused(&outcome)),
        }
    }

    /// Has a user's unread notifications become read, so many at a time; how many did.
    ///
    /// # Errors
    /// Where the store fails. What was read by then stays so; the same again goes on.
    pub async fn read_all(
        &self,
        caller: &AppId,
        user: &UserId,
        app: Option<AppId>,
        before: Option<Timestamp>,
        origin: &Origin,
    ) -> Result<u64, HubError> {
        // What comes while this runs is not meant.
        let before = Some(before.unwrap_or_else(|| Timestamp::from_unix_ms(Timestamp::now().unix_ms() + 1)));
        let mut updated = 0;
        loop {
            let work = Work::ReadAll(ReadAll { user: user.clone(), app: app.clone(), before, limit: READ_AT_ONCE });
            let Outcome::Done(count) = self.submit(caller, origin.clone(), work).await?.outcome else {
                return Ok(updated);
            };
            updated += count;
            if count < u64::from(READ_AT_ONCE) {
                return Ok(updated);
            }
        }
    }

    /// Ends what is over, at most `limit`; how many.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn expire_notifications(&self, limit: u32) -> Result<u64, HubError> {
        match self.writer.write(Submission::expiry(Timestamp::now(), limit)).await?.outcome {
            Outcome::Done(count) => Ok(count),
            _ => Ok(0),
        }
    }

    async fn submit(&self, app: &AppId, origin: Origin, work: Work) -> Result<Appended, HubError> {
        self.writer.write(Submission { app_id: app.clone(), origin, work, claim: None }).await
    }

    /// One notification.
    ///
    /// # Errors
    /// [`HubError::NotFound`], [`HubError::Forbidden`] where it is out of reach.
    pub async fn notification(&self, scope: &AccessScope, id: NotificationId) -> Result<NotificationWithApp, HubError> {
        match self.store.notification(scope, id).await? {
            Lookup::Found(notification) => self.with_app(*notification).await,
            Lookup::NotInScope => Err(HubError::Forbidden),
            Lookup::NotFound => Err(HubError::NotFound),
        }
    }

    /// A page of a user's feed, as far as the caller reaches.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn feed(&self, scope: &AccessScope, user: &UserId, filter: &FeedFilter) -> Result<Feed, HubError> {
        let unread = self.counts.unread(&*self.store, scope, user).await?;
        let page = self.store.feed(scope, user, filter, Timestamp::now()).await?;
        let mut notifications = Vec::with_capacity(page.notifications.len());
        for notification in page.notifications {
            notifications.push(self.with_app(notification).await?);
        }
        let total = page.total.min(TOTAL_CAP);
        Ok(Feed { notifications, total, total_is_capped: page.total > TOTAL_CAP, unread })
    }

    /// How many notifications a user has, as far as the caller reaches.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn notification_counts(&self, scope: &AccessScope, user: &UserId) -> Result<Counts, HubError> {
        let mut counts = Counts {
            unread: 0,
            by_app: BTreeMap::new(),
            by_status: Status::ALL.into_iter().map(|status| (status, 0)).collect(),
        };
        for row in self.counts.by_status(&*self.store, scope, user).await?.iter() {
            *counts.by_status.entry(row.status).or_default() += row.count;
            if row.status == Status::Unread {
                counts.unread += row.count;
                *counts.by_app.entry(row.app_id.clone()).or_default() += row.count;
            }
        }
        Ok(counts)
    }

    async fn with_app(&self, notification: Notification) -> Result<NotificationWithApp, HubError> {
        let app = self.auth.app(&notification.app_id).await?;
        Ok(NotificationWithApp { notification, app })
    }
}

fn refused(outcome: &Outcome) -> HubError {
    match outcome {
        Outcome::Rejected(ChangeError::NotInScope) => HubError::Forbidden,
        Outcome::Rejected(ChangeError::Invalid(error)) => HubError::InvalidTransition(*error),
        _ => HubError::NotFound,
    }
}
