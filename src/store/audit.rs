//! Who did what to what.

use std::net::IpAddr;

use async_trait::async_trait;
use oriva_hub_actors::model::Timestamp;
use uuid::Uuid;

use super::{StoreError, retention::first_id_at};

/// Something that was done.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    pub id: Uuid,
    /// `admin`, `cli`, `first-run`, `hub`, an app's id, or `user:` and a user's id.
    pub actor: String,
    pub action: String,
    /// The id of what it was done to.
    pub subject: String,
    pub app_id: Option<String>,
    pub ip: Option<IpAddr>,
    pub at: Timestamp,
}

/// What is asked for: what all of these hold for.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub actor: Option<String>,
    pub action: Option<String>,
    pub subject: Option<String>,
    pub app_id: Option<String>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Where the page before ended.
    pub before: Option<Uuid>,
    pub limit: u32,
}

/// The clocks of nodes and of the database may differ by so much.
const SKEW_MS: i64 = 60_000;

impl AuditFilter {
    /// No entry since then has a lesser id, so that the walk from the newest on ends there.
    pub(super) fn first_id(&self) -> Uuid {
        let since = self.since.map_or(0, |since| since.unix_ms() - SKEW_MS);
        first_id_at(Timestamp::from_unix_ms(since))
    }

    /// No entry until then has a greater one, so that the walk begins there.
    pub(super) fn last_id(&self) -> Option<Uuid> {
        self.until.map(|until| first_id_at(Timestamp::from_unix_ms(until.unix_ms().saturating_add(SKEW_MS))))
    }

    /// The conditions of columns that hold text.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [("actor", &self.actor), ("action", &self.action), ("subject", &self.subject), ("app_id", &self.app_id)]
            .into_iter()
            .filter_map(|(column, text)| Some((column, text.as_deref()?)))
    }
}

#[async_trait]
pub trait AuditStore: Send + Sync {
    /// A page of the log, newest first.
    async fn audit_log(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError>;
}
