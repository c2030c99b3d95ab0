//! `/admin/audit`: the audit log (data-model, `audit_log`).

use actix_web::{HttpResponse, web::Data};
use oriva_hub_actors::model::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    http::{
        Problem,
        auth::Admin,
        body::text,
        openapi::{
            answers::{Checked, Operator},
            requests::AuditQuery,
        },
        query::{self, Parameters},
    },
    hub::Hub,
    store::{AuditEntry, AuditFilter, FaultyField},
};

const DEFAULT_LIMIT: u64 = 100;
const MAX_LIMIT: u64 = 500;

/// A page of the audit log.
#[derive(Serialize, ToSchema)]
struct AuditLog<'a> {
    entries: Vec<EntryView<'a>>,
    limit: u32,
    /// Whether there may be a next page.
    has_more: bool,
    next_cursor: Option<String>,
}

/// An entry of the audit log.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
struct EntryView<'a> {
    #[schema(value_type = String, format = "uuid")]
    audit_id: Uuid,
    /// `admin`, `cli`, `first-run`, `hub`, an app's id, or `user:` and a user's id.
    actor: &'a str,
    /// For example `app.create`, `key.revoke`, `notification.dismissed`.
    action: &'a str,
    /// The id of the app, key, webhook or notification.
    subject: &'a str,
    app_id: Option<&'a str>,
    ip_address: Option<String>,
    at: Timestamp,
}

impl<'a> From<&'a AuditEntry> for EntryView<'a> {
    fn from(entry: &'a AuditEntry) -> Self {
        Self {
            audit_id: entry.id,
            actor: &entry.actor,
            action: &entry.action,
            subject: &entry.subject,
            app_id: entry.app_id.as_deref(),
            ip_address: entry.ip.map(|ip| ip.to_string()),
            at: entry.at,
        }
    }
}

/// Lists the audit log, newest entry first.
///
/// It records apps, keys and webhooks, and notifications that were created or changed, without their content. A filter
/// that matches few entries is slow without `since`, because the whole log is searched.
#[utoipa::path(
    get,
    path = "/api/v1/admin/audit",
    operation_id = "listAuditLog",
    tag = "Admin",
    params(AuditQuery),
    responses((status = 200, description = "A page of the audit log", body = AuditLog), Operator, Checked),
    security(("admin_key" = [])),
)]
pub async fn list(_: Admin, hub: Data<Hub>, parameters: Parameters) -> Result<HttpResponse, Problem> {
    let filter = audit_filter(parameters).map_err(Problem::invalid)?;
    let log = hub.apps().audit_log(&filter).await?;
    let is_full = log.len() == filter.limit as usize;
    let next_cursor = log.last().filter(|_| is_full).map(|last| query::encode(&last.id.to_string()));
    let entries = log.iter().map(EntryView::from).collect();
    Ok(HttpResponse::Ok().json(AuditLog { entries, limit: filter.limit, has_more: next_cursor.is_some(), next_cursor }))
}

fn audit_filter(parameters: Parameters) -> Result<AuditFilter, Vec<FaultyField>> {
    let (mut fields, _) = query::fields(parameters, []);
    let limit = fields.optional("limit", query::number(1..=MAX_LIMIT)).unwrap_or(DEFAULT_LIMIT);
    let filter = AuditFilter {
        actor: fields.optional("actor", text(1..=255)),
        action: fields.optional("action", text(1..=128)),
        subject: fields.optional("subject", text(1..=255)),
        app_id: fields.optional("app_id", text(1..=63)),
        since: fields.optional("since", Timestamp::parse),
        until: fields.optional("until", Timestamp::parse),
        before: query::cursor(&mut fields, 0, |text| text.parse().ok()),
        limit: u32::try_from(limit).unwrap_or(1),
    };
    fields.finish()?;
    Ok(filter)
}
