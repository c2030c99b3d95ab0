//! Creating, changing and reading notifications (contract §6).

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
        AccessScope, App, BatchItem, Change, Create, CreateBatch, Delete, DuplicateExternalId, Expire, FeedFilter,
        Lookup, NewNotification, Notification, NotificationReceipt, NotificationReceipts, NotificationRecord, Origin,
        Progress, ReadAll, Status, TOTAL_CAP,
    },
};

/// Greatest number of notifications that one transaction of read-all changes.
const READ_AT_ONCE: u32 = 500;

/// A notification with its app's name and icon.
#[derive(Debug)]
pub struct NotificationWithApp {
    /// The notification.
    pub notification: Notification,
    /// The app that sent it; `None` if it was deleted.
    pub app: Option<Arc<App>>,
}

/// A page of a user's feed, with its totals.
#[derive(Debug)]
pub struct Feed {
    /// One page.
    pub notifications: Vec<NotificationWithApp>,
    /// How many there are over all pages, up to a cap.
    pub total: u64,
    /// Whether there may be more than `total`.
    pub total_is_capped: bool,
    /// Notifications that are unread.
    pub unread: u64,
}

/// Numbers of a user's notifications.
#[derive(Debug)]
pub struct Counts {
    /// Notifications that are unread.
    pub unread: u64,
    /// Number of unread notifications, by app.
    pub by_app: BTreeMap<AppId, u64>,
    /// Notifications by status.
    pub by_status: BTreeMap<Status, u64>,
}

impl Hub {
    /// Creates a notification: its content, its state and its event in one transaction.
    ///
    /// # Errors
    /// [`HubError::DuplicateExternalId`] where its external id is taken, and as [`Hub::publish`].
    pub async fn create_notification(
        &self,
        caller: &KeyHolder,
        notification: NewNotification,
        origin: Origin,
        idempotency: Option<Idempotency>,
    ) -> Result<Written<NotificationReceipt>, HubError> {
        let expires_at = notification.content.expires_at;
        let create = Create { from_platform: caller.app.is_platform, notification };
        let created = self.writer.write_once(&caller.app.id, origin, create, idempotency).await?;
        let written =
            Written::from_once(created.map_err(|DuplicateExternalId(owner)| HubError::DuplicateExternalId(owner))?)?;
        self.bring_expiry_forward(expires_at);
        Ok(written)
    }

    /// Creates the valid notifications of a batch in one transaction.
    ///
    /// # Errors
    /// As [`Hub::publish`].
    pub async fn create_notifications(
        &self,
        caller: &KeyHolder,
        items: Vec<BatchItem<NewNotification>>,
        origin: Origin,
        idempotency: Option<Idempotency>,
    ) -> Result<Written<NotificationReceipts>, HubError> {
        let first_expiry = items.iter().flatten().filter_map(|new| new.content.expires_at).min();
        let create = CreateBatch { from_platform: caller.app.is_platform, items };
        let written = Written::from_once(self.writer.write_once(&caller.app.id, origin, create, idempotency).await?)?;
        self.bring_expiry_forward(first_expiry);
        Ok(written)
    }

    fn bring_expiry_forward(&self, expires_at: Option<Timestamp>) {
        if let Some(moment) = expires_at {
            self.next_expiry.bring_forward(moment);
        }
    }

    /// Changes a notification's status. The same status again changes nothing and is no error.
    ///
    /// # Errors
    /// [`HubError::NotFound`], [`HubError::Forbidden`], [`HubError::InvalidTransition`].
    pub async fn change_notification(
        &self,
        caller: &AppId,
        change: Change,
        origin: Origin,
    ) -> Result<NotificationRecord, HubError> {
        self.writer.write(caller, origin, change).await?.map(|record| *record).map_err(HubError::from)
    }

    /// Deletes a notification of the caller's app.
    ///
    /// # Errors
    /// [`HubError::NotFound`], [`HubError::Forbidden`].
    pub async fn delete_notification(
        &self,
        caller: &KeyHolder,
        id: NotificationId,
        origin: Origin,
    ) -> Result<(), HubError> {
        let delete = Delete { id, owner: caller.app.id.clone() };
        self.writer.write(&caller.app.id, origin, delete).await?.map_err(HubError::from)
    }

    /// Marks a user's unread notifications as read, in several transactions. Returns their number.
    ///
    /// # Errors
    /// Where the store fails. Those that were marked stay so, and a repeat continues.
    pub async fn read_all(
        &self,
        caller: &AppId,
        user: &UserId,
        app: Option<AppId>,
        before: Option<Timestamp>,
        origin: &Origin,
    ) -> Result<u64, HubError> {
        // Notifications created while this runs are not marked.
        let before = Some(before.unwrap_or_else(|| Timestamp::from_unix_ms(Timestamp::now().unix_ms() + 1)));
        let mut updated = 0;
        loop {
            let read_all = ReadAll { user: user.clone(), app: app.clone(), before, limit: READ_AT_ONCE };
            let progress = self.writer.write(caller, origin.clone(), read_all).await?;
            updated += progress.changed;
            if progress.is_complete {
                return Ok(updated);
            }
        }
    }

    /// Expires at most `limit` notifications whose `expires_at` has passed.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn expire_notifications(&self, limit: u32) -> Result<Progress, HubError> {
        self.writer.write(&AppId::hub(), Origin::hub(), Expire { until: Timestamp::now(), limit }).await
    }

    /// Returns one notification.
    ///
    /// # Errors
    /// [`HubError::NotFound`], [`HubError::Forbidden`] if it is outside of the scope.
    pub async fn notification(&self, scope: &AccessScope, id: NotificationId) -> Result<NotificationWithApp, HubError> {
        match self.store.notification(scope, id).await? {
            Lookup::Found(notification) => self.with_app(*notification).await,
            Lookup::NotInScope => Err(HubError::Forbidden),
            Lookup::NotFound => Err(HubError::NotFound),
        }
    }

    /// Returns a page of a user's feed, within the scope.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn feed(&self, scope: &AccessScope, user: &UserId, filter: &FeedFilter) -> Result<Feed, HubError> {
        let page = self.counts.feed(&*self.store, scope, user, filter).await?;
        let mut notifications = Vec::with_capacity(page.notifications.len());
        for notification in page.notifications {
            notifications.push(self.with_app(notification).await?);
        }
        let total = page.total.min(TOTAL_CAP);
        Ok(Feed { notifications, total, total_is_capped: page.total > TOTAL_CAP, unread: page.unread.count })
    }

    /// Counts a user's notifications, within the scope.
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
