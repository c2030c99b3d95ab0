//! A cache of notification counts that sees every change at once.
//!
//! Every change of a notification's status writes an event to that user's stream in the same transaction, on any node.
//! So a count made at offset n is right for as long as the stream's head is n. Reading the head is one primary-key
//! lookup, and no messages between nodes are needed.

use std::{sync::Arc, time::Duration};

use moka::sync::Cache;
use oriva_hub_actors::model::{AppId, StreamKey, Timestamp, UserId};

use crate::metrics::cache_lookup;
use crate::store::{AccessScope, FeedFilter, FeedPage, StatusCount, Store, StoreError, UnreadCount, Validity};

/// Greatest number of users in the cache.
const CACHED: u64 = 100_000;
/// Lifetime of an entry (contract §6). Entries that a change or an expiry made wrong are not used anyway.
const CACHED_FOR: Duration = Duration::from_secs(60);

/// A user, and the app whose notifications the caller may see, if only one.
type Whose = (UserId, Option<AppId>);

/// Counts by user, each with the head of the user's stream when it was made.
pub(super) struct CountCache {
    unread: Cache<Whose, UnreadCount>,
    by_status: Cache<Whose, (Validity, Arc<[StatusCount]>)>,
}

impl Default for CountCache {
    fn default() -> Self {
        Self {
            unread: Cache::builder().max_capacity(CACHED).time_to_live(CACHED_FOR).build(),
            by_status: Cache::builder().max_capacity(CACHED).time_to_live(CACHED_FOR).build(),
        }
    }
}

impl CountCache {
    /// A page of a user's feed. Its unread notifications are counted only if the last count does not hold any more.
    pub(super) async fn feed(
        &self,
        store: &dyn Store,
        scope: &AccessScope,
        user: &UserId,
        filter: &FeedFilter,
    ) -> Result<FeedPage, StoreError> {
        let whose = (user.clone(), scope.app.clone());
        let counted = self.unread.get(&whose);
        let page = store.feed(scope, user, filter, Timestamp::now(), counted).await?;
        let is_hit = counted == Some(page.unread);
        cache_lookup("counts", is_hit);
        if !is_hit {
            self.unread.insert(whose, page.unread);
        }
        Ok(page)
    }

    pub(super) async fn by_status(
        &self,
        store: &dyn Store,
        scope: &AccessScope,
        user: &UserId,
    ) -> Result<Arc<[StatusCount]>, StoreError> {
        let whose = (user.clone(), scope.app.clone());
        let now = Timestamp::now();
        // The head is read first. A change in between makes the counts newer than their head, never older.
        let head = store.head(&StreamKey::User(user.clone())).await?;
        let counted = self.by_status.get(&whose).filter(|(until, _)| until.holds(head, now));
        cache_lookup("counts", counted.is_some());
        if let Some((_, counts)) = counted {
            return Ok(counts);
        }
        let (counts, next_expiry) = store.counts(scope, user, now).await?;
        let counts: Arc<[StatusCount]> = counts.into();
        self.by_status.insert(whose, (Validity { head, next_expiry }, counts.clone()));
        Ok(counts)
    }
}
