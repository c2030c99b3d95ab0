//! Retires what is past retention, at the start and daily at midnight UTC (data-model, 'Retention'). Running twice, or on two nodes, loses and
//! doubles nothing: a row leaves one table and enters the other in one transaction.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{Days, NaiveTime, Utc};
use oriva_hub_actors::{measures, model::Timestamp};

use super::{Progress, Worker};
use crate::{
    config::Retention,
    hub::NextExpiry,
    store::{Retired, Store, StoreError},
};

/// Rows of one transaction: no long lock.
const CHUNK: u32 = 1000;
/// Between two runs of the same night, so that publishing is not held up.
const BREATH: Duration = Duration::from_millis(100);

pub struct Archiver {
    store: Arc<dyn Store>,
    config: Retention,
    next_expiry: Arc<NextExpiry>,
}

impl Archiver {
    #[must_use]
    pub fn new(store: Arc<dyn Store>, config: &Retention, next_expiry: Arc<NextExpiry>) -> Self {
        Self { store, config: config.clone(), next_expiry }
    }

    /// Retires at most `retention.batch` rows of each kind. How many of each.
    ///
    /// # Errors
    /// Where the store fails; what was retired before stays so.
    pub async fn run(&self) -> Result<[(Retired, u64); 4], StoreError> {
        let now = Timestamp::now();
        let old = before(now, self.config.days);
        // They end as any notification does, with an event that badges hear, and are archived by a later run.
        if self.store.expire_retired(old, self.config.batch).await? > 0 {
            self.next_expiry.bring_forward(now);
        }
        let mut done = Retired::ALL.map(|what| (what, 0));
        for (what, count) in &mut done {
            let old = if *what == Retired::DeliveryLog { before(now, self.config.delivery_log_days) } else { old };
            while *count < u64::from(self.config.batch) {
                let left = u64::from(self.config.batch) - *count;
                let chunk = CHUNK.min(u32::try_from(left).unwrap_or(CHUNK));
                let retired = self.store.retire(*what, old, chunk).await?;
                *count += retired;
                metrics::counter!(measures::ROWS_RETIRED, "table" => what.as_str()).increment(retired);
                if retired < u64::from(chunk) {
                    break;
                }
            }
            if *count > 0 {
                tracing::info!(table = what.as_str(), count, "past retention");
            }
        }
        Ok(done)
    }

    /// How many rows a night would retire.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn due(&self) -> Result<[(Retired, u64); 4], StoreError> {
        let now = Timestamp::now();
        let mut due = Retired::ALL.map(|what| (what, 0));
        for (what, count) in &mut due {
            let days = if *what == Retired::DeliveryLog { self.config.delivery_log_days } else { self.config.days };
            *count = self.store.count_retired(*what, before(now, days)).await?;
        }
        Ok(due)
    }
}

/// So many days before a moment.
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

    async fn run_once(&mut self) -> Result<Progress, StoreError> {
        let done = self.run().await?;
        let is_full = done.iter().any(|(_, count)| *count >= u64::from(self.config.batch));
        Ok(if is_full { Progress::Until(BREATH) } else { Progress::Until(until_midnight()) })
    }
}
