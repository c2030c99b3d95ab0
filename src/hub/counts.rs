//! Counts that badges show, remembered for a while and never stale.
//!
//! Every change of a user's inbox writes an event to that user's stream in the same transaction, on whichever node. So a
//! count that was made at offset n holds for as long as the stream ends at n: reading that end is one look at a primary
//! key, and no message between nodes has to arrive for the count to be right.

use std::{sync::Arc, time::Duration};

use moka::sync::Cache;
use oriva_hub_actors::model::{AppId, Offset, StreamKey, Timestamp, UserId};

use crate::metrics::cache_lookup;
use crate::store::{AccessScope, StatusCount, Store, StoreError};

/// Users remembered.
const CACHED: u64 = 100_000;
/// What is over becomes so without a change; this bounds how late that shows where no worker runs.
const CACHED_FOR: Duration = Duration::from_secs(60);

/// A user, and the one app that the caller reaches, where it is one.
type Whose = (UserId, Option<AppId>);

/// Counts by user, each with the end of that user's stream when it was made.
pub(super) struct CountCache {
    unread: Cache<Whose, (Offset, u64)>,
    by_status: Cache<Whose, (Offset, Arc<[StatusCount]>)>,
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
    pub(super) async fn unread(
        &self,
        store: &dyn Store,
        scope: &AccessScope,
        user: &UserId,
    ) -> Result<u64, StoreError> {
        let whose = (user.clone(), scope.app.clone());
        // The end first: what changes in between makes the count newer than it says, never older.
        let end = store.head(&StreamKey::User(user.clone())).await?;
        let counted = self.unread.get(&whose).filter(|(counted_at, _)| *counted_at == end);
        cache_lookup("counts", counted.is_some());
        if let Some((_, count)) = counted {
            return Ok(count);
        }
        let count = store.unread(scope, user, Timestamp::now()).await?;
        self.unread.insert(whose, (end, count));
        Ok(count)
    }

    pub(super) async fn by_status(
        &self,
        store: &dyn Store,
        scope: &AccessScope,
        user: &UserId,
    ) -> Result<Arc<[StatusCount]>, StoreError> {
        let whose = (user.clone(), scope.app.clone());
        let end = store.head(&StreamKey::User(user.clone())).await?;
        let counted = self.by_status.get(&whose).filter(|(counted_at, _)| *counted_at == end);
        cache_lookup("counts", counted.is_some());
        if let Some((_, counts)) = counted {
            return Ok(counts);
        }
        let counts: Arc<[StatusCount]> = store.counts(scope, user, Timestamp::now()).await?.into();
        self.by_status.insert(whose, (end, counts.clone()));
        Ok(counts)
    }
}
