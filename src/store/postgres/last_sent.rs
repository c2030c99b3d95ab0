//! The last event that was committed and sent to whoever is online. A server that took over from another, or that crashed with
//! `synchronous_commit = off`, may have lost it, and would give its offsets to others.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use oriva_hub_actors::model::EventId;
use sqlx_pg::{PgConnection, Postgres};

use crate::store::{
    StoreError,
    sql::{
        dialect::{Dialect as _, SqlRow as _},
        statement::Statement,
    },
};

/// For how long an event is looked for. Retention may have taken an older one.
const LOOKED_FOR: Duration = Duration::from_secs(12 * 3600);

/// The last event that was sent, and when.
#[derive(Debug, Default)]
pub(super) struct LastSent(Mutex<Option<(EventId, Instant)>>);

impl LastSent {
    fn state(&self) -> MutexGuard<'_, Option<(EventId, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This event was committed, after all others.
    pub(super) fn set(&self, event: EventId) {
        *self.state() = Some((event, Instant::now()));
    }

    /// Looks for no event any more.
    pub(super) fn forget(&self) {
        *self.state() = None;
    }

    /// Checks on a new connection that the event is still there. Commits are lost from the last one on, so then all are.
    ///
    /// # Errors
    /// [`StoreError::LostCommits`].
    pub(super) async fn check(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let sent = *self.state();
        let Some((event, _)) = sent.filter(|(_, at)| at.elapsed() < LOOKED_FOR) else { return Ok(()) };
        let query = Statement::new(
            "select exists (select from platform_events where id = $1) \
             or exists (select from platform_events_archive where id = $1)",
        );
        let is_there = Postgres::fetch_one(connection, query.bind(event.0)).await?.flag(0)?;
        if is_there { Ok(()) } else { Err(StoreError::LostCommits) }
    }
}
