//! The audit log.

use std::net::IpAddr;

use async_trait::async_trait;
use oriva_hub_actors::model::Timestamp;
use uuid::Uuid;

use super::{StoreError, retention::first_id_at};

/// An entry of the audit log.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// The entry's id, in the order of time.
    pub id: Uuid,
    /// `admin`, `cli`, `first-run`, `hub`, an app's id, or `user:` and a user's id.
    pub actor: String,
    /// What was done: `app.create`.
    pub action: String,
    /// The id of the app, key, webhook or notification.
    pub subject: String,
    /// The app that it concerns.
    pub app_id: Option<String>,
    /// Where the request came from.
    pub ip: Option<IpAddr>,
    /// The moment.
    pub at: Timestamp,
}

/// Filters. An entry must match all of them.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only by this actor.
    pub actor: Option<String>,
    /// Only this action.
    pub action: Option<String>,
    /// Only on this subject.
    pub subject: Option<String>,
    /// Only of this app.
    pub app_id: Option<String>,
    /// Only from this moment on.
    pub since: Option<Timestamp>,
    /// Only up to this moment.
    pub until: Option<Timestamp>,
    /// The last entry of the page before.
    pub before: Option<Uuid>,
    /// Greatest number of entries.
    pub limit: u32,
}

/// Greatest difference between the clocks of nodes and database.
const SKEW_MS: i64 = 60_000;

impl AuditFilter {
    /// The least id that an entry since `since` can have. The search from the newest entry stops there.
    pub(super) fn first_id(&self) -> Uuid {
        let since = self.since.map_or(0, |since| since.unix_ms() - SKEW_MS);
        first_id_at(Timestamp::from_unix_ms(since))
    }

    /// The greatest id that an entry until `until` can have. The search begins there.
    pub(super) fn last_id(&self) -> Option<Uuid> {
        self.until.map(|until| first_id_at(Timestamp::from_unix_ms(until.unix_ms().saturating_add(SKEW_MS))))
    }

    /// The filters on text columns.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [("actor", &self.actor), ("action", &self.action), ("subject", &self.subject), ("app_id", &self.app_id)]
            .into_iter()
            .filter_map(|(column, text)| Some((column, text.as_deref()?)))
    }
}

/// The audit log.
#[async_trait]
pub trait AuditStore: Send + Sync {
    /// A page of the log, newest first.
    async fn audit_log(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError>;
}
