//! Moves, deletes and exports old rows, at the start and at every midnight UTC (data-model, 'Retention'). Repeating it,
//! or running it on two nodes, neither loses nor doubles a row: a row moves to its archive table in one transaction,
//! and is deleted there only after the archive has the whole object with it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{Days, NaiveTime, Utc};
use oriva_hub_actors::{
    metric_names,
    model::{AppId, Timestamp},
};

use super::{Progress, Worker, WorkerError};
use crate::{
    archive::{ArchiveError, ObjectArchive},
    config::Retention,
    hub::NextExpiry,
    store::{
        ArchiveTable, Expire, Operation as _, Origin, Range, RetentionClass, Step, Store, StoreError, Submission,
        within_deadline,
    },
};

/// Rows of one transaction, so that no lock lasts long.
const CHUNK: u32 = 1000;
/// Rows of one object. It is built in memory: with 64 KiB of data in each row, some 32 MiB.
const OBJECT_ROWS: u32 = 500;
/// Pause after each `retention.batch` rows, so that publishing is not delayed.
const THROTTLE: Duration = Duration::from_millis(100);
/// Pause until notifications that were set to expire have expired and can be archived.
const UNTIL_EXPIRED: Duration = Duration::from_secs(60);
/// Pause after the object store failed.
const ANOTHER_TRY: Duration = Duration::from_secs(10 * 60);

/// Retires rows that are old, and exports them.
pub struct Archiver {
    store: Arc<dyn Store>,
    config: Retention,
    next_expiry: Arc<NextExpiry>,
}

/// The result of a pass.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// Number of notifications that were set to expire. A later pass archives them.
    pub expired: u64,
    pub retired: [(RetentionClass, u64); RetentionClass::ALL.len()],
}

/// Why a pass stopped early. What it did before stays done.
#[derive(Debug, thiserror::Error)]
pub enum ArchiverError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rows stay in the archive tables for a later pass.
    #[error("retention.archive_url cannot be written")]
    Objects(#[from] ArchiveError),
}

impl Archiver {
    /// Works on `store` by these settings.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, config: &Retention, next_expiry: Arc<NextExpiry>) -> Self {
        Self { store, config: config.clone(), next_expiry }
    }

    /// Runs one pass over all old rows, and exports archive tables if an object store is configured.
    ///
    /// # Errors
    /// Where the store or the object store fails.
    pub async fn run(&self) -> Result<Pass, ArchiverError> {
        let now = Timestamp::now();
        let old = before(now, self.config.days);
        // They expire as any notification does, with an event, so that clients update their badges.
        let expired = self.for_each_step(old, |range, limit| self.store.expire_retired(range, limit), |_| {}).await?;
        if expired > 0 {
            tracing::info!(count = expired, "past retention and not over: ending them");
            self.next_expiry.bring_forward(now);
        }
        let mut retired = RetentionClass::ALL.map(|what| (what, 0));
        for (what, count) in &mut retired {
            let what = *what;
            let old = before(now, self.days(what));
            let note = |rows| metrics::counter!(metric_names::ROWS_RETIRED, "table" => what.as_str()).increment(rows);
            *count = self.for_each_step(old, |range, limit| self.store.retire(what, range, limit), note).await?;
            if *count > 0 {
                tracing::info!(table = what.as_str(), count, "past retention");
            }
        }
        if let Some(url) = &self.config.archive_url {
            self.export(&ObjectArchive::open(url)?).await?;
        }
        Ok(Pass { expired, retired })
    }

    /// As [`Archiver::run`], but expires notifications itself and archives them in the same call. Clients that are
    /// online learn of it with the next resync.
    ///
    /// # Errors
    /// As [`Archiver::run`].
    pub async fn run_until_empty(&self) -> Result<Pass, ArchiverError> {
        let mut pass = self.run().await?;
        if pass.expired > 0 {
            self.end_what_is_due().await?;
            let second = self.run().await?;
            for ((_, count), (_, more)) in pass.retired.iter_mut().zip(second.retired) {
                *count += more;
            }
        }
        Ok(pass)
    }

    async fn end_what_is_due(&self) -> Result<(), StoreError> {
        loop {
            let expire = Expire { until: Timestamp::now(), limit: CHUNK };
            let submission = Submission::new(&AppId::hub(), Origin::hub(), expire);
            let appended = within_deadline(&*self.store, self.store.append(std::slice::from_ref(&submission))).await?;
            let outcome = appended.into_iter().find_map(|one| Expire::outcome(one.outcome));
            if outcome.is_none_or(|progress| progress.is_complete) {
                return Ok(());
            }
        }
    }

    /// Runs `step` over all rows older than a moment. Returns the number of rows that it changed.
    async fn for_each_step<F: Future<Output = Result<Step, StoreError>>>(
        &self,
        old: Timestamp,
        step: impl Fn(Range, u32) -> F,
        note: impl Fn(u64),
    ) -> Result<u64, StoreError> {
        let chunk = CHUNK.min(self.config.batch);
        let mut range = Range::until(old);
        let (mut looked_at, mut done) = (0, 0);
        loop {
            let taken = within_deadline(&*self.store, step(range, chunk)).await?;
            done += taken.done;
            note(taken.done);
            let Some(last) = taken.last else { return Ok(done) };
            range.after = last;
            looked_at += chunk;
            if looked_at >= self.config.batch {
                looked_at = 0;
                tokio::time::sleep(THROTTLE).await;
            }
        }
    }

    /// Exports the archive tables. Rows are deleted only after their object was read back completely.
    async fn export(&self, objects: &ObjectArchive) -> Result<(), ArchiverError> {
        for table in ArchiveTable::ALL {
            while let Some(export) = within_deadline(&*self.store, self.store.begin_export(table, OBJECT_ROWS)).await? {
                let name = export.name();
                objects.put(&name, export.lines).await?;
                within_deadline(&*self.store, self.store.finish_export(table, export.id)).await?;
                tracing::info!(object = name, rows = export.rows, "archived");
                tokio::time::sleep(THROTTLE).await;
            }
        }
        Ok(())
    }

    /// Number of rows that a pass would retire.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn due(&self) -> Result<[(RetentionClass, u64); RetentionClass::ALL.len()], StoreError> {
        let now = Timestamp::now();
        let mut due = RetentionClass::ALL.map(|what| (what, 0));
        for (what, count) in &mut due {
            *count = self.store.count_retired(*what, before(now, self.days(*what))).await?;
        }
        Ok(due)
    }

    /// Retention in days.
    const fn days(&self, what: RetentionClass) -> u32 {
        match what {
            RetentionClass::Events | RetentionClass::Notifications | RetentionClass::Deliveries => self.config.days,
            RetentionClass::DeliveryLog => self.config.delivery_log_days,
            RetentionClass::AuditLog => self.config.audit_days,
        }
    }
}

/// The moment `days` days before `now`.
fn before(now: Timestamp, days: u32) -> Timestamp {
    Timestamp::from(now.as_datetime().checked_sub_days(Days::new(days.into())).unwrap_or_default())
}

fn until_midnight() -> Duration {
    let now = Utc::now();
    let tomorrow = now.date_naive().checked_add_days(Days::new(1)).unwrap_or(now.date_naive());
    (tomorrow.and_time(NaiveTime::MIN).and_utc() - now).to_std().unwrap_or(Duration::from_secs(60))
}

#[async_trait(?Send)]
impl Worker for Archiver {
    fn name(&self) -> &'static str {
        "archiver"
    }

    fn period(&self) -> Duration {
        until_midnight()
    }

    fn manages_own_deadline(&self) -> bool {
        true
    }

    async fn run_once(&mut self) -> Result<Progress, WorkerError> {
        match self.run().await {
            Ok(pass) => Ok(Progress::Until(if pass.expired > 0 { UNTIL_EXPIRED } else { until_midnight() })),
            Err(ArchiverError::Store(error)) => Err(error.into()),
            Err(error @ ArchiverError::Objects(_)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot archive: look at the address and its credentials; rows wait in the archive tables"
                );
                Err(WorkerError::Logged { retry_in: ANOTHER_TRY })
            }
        }
    }
}
