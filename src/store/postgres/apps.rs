//! Apps and keys in PostgreSQL.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use oriva_hub_actors::model::{AppId, Invalid, KeyId, RevokedCredentials, Timestamp};
use sqlx::{PgConnection, Row, postgres::PgRow, types::Json};
use uuid::Uuid;

use super::PostgresStore;
use crate::store::{ApiKey, App, AppChange, AppStore, Audit, LimitOverrides, NewApp, NewKey, StoreError, ip_text};

const APP: &str = "a.app_id, a.name, a.icon_url, a.is_active, a.is_platform, a.limits, a.created_at, a.updated_at";
const KEY: &str = "k.key_id, k.app_id, k.prefix, k.created_at, k.last_used_at, k.revoked_at";

#[async_trait]
impl AppStore for PostgresStore {
    async fn create_app(&self, app: &NewApp, key: Option<&NewKey>, audit: &Audit) -> Result<App, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "insert into apps as a (app_id, name, icon_url, is_platform, limits) values ($1, $2, $3, $4, $5) returning {APP}"
        )))
        .bind(app.id.as_str())
        .bind(&app.name)
        .bind(&app.icon_url)
        .bind(app.is_platform)
        .bind(Json(&app.limits))
        .fetch_one(&mut *transaction)
        .await?;
        if let Some(key) = key {
            insert_key(&mut transaction, key).await?;
        }
        Self::raise_identity_revision(&mut transaction).await?;
        write_audit(&mut transaction, audit, "app.create", app.id.as_str(), &app.id).await?;
        transaction.commit().await?;
        app_of(&row)
    }

    async fn app(&self, app: &AppId) -> Result<Option<App>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("select {APP} from apps a where app_id = $1")))
            .bind(app.as_str())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(app_of).transpose()
    }

    async fn apps(&self) -> Result<Vec<App>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("select {APP} from apps a order by app_id")))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(app_of).collect()
    }

    async fn update_app(&self, app: &AppId, change: &AppChange, audit: &Audit) -> Result<Option<App>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "update apps a set name = coalesce($2, name), icon_url = case when $3 then $4 else icon_url end, \
             is_active = coalesce($5, is_active), is_platform = coalesce($6, is_platform), \
             limits = coalesce($7, limits) where app_id = $1 returning {APP}"
        )))
        .bind(app.as_str())
        .bind(&change.name)
        .bind(change.icon_url.is_some())
        .bind(change.icon_url.as_ref().and_then(Option::as_ref))
        .bind(change.is_active)
        .bind(change.is_platform)
        .bind(change.limits.as_ref().map(Json))
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Self::raise_identity_revision(&mut transaction).await?;
        write_audit(&mut transaction, audit, "app.update", app.as_str(), app).await?;
        transaction.commit().await?;
        app_of(&row).map(Some)
    }

    async fn delete_app(&self, app: &AppId, audit: &Audit) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("delete from app_api_keys where app_id = $1").bind(app.as_str()).execute(&mut *transaction).await?;
        let gone =
            sqlx::query("delete from apps where app_id = $1").bind(app.as_str()).execute(&mut *transaction).await?;
        if gone.rows_affected() == 0 {
            return Ok(false);
        }
        Self::raise_identity_revision(&mut transaction).await?;
        write_audit(&mut transaction, audit, "app.delete", app.as_str(), app).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn add_key(&self, key: &NewKey, audit: &Audit) -> Result<ApiKey, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let row = insert_key(&mut transaction, key).await?;
        Self::raise_identity_revision(&mut transaction).await?;
        write_audit(&mut transaction, audit, "key.create", &key.id.to_string(), &key.app_id).await?;
        transaction.commit().await?;
        key_of(&row)
    }

    async fn keys(&self, app: &AppId) -> Result<Vec<ApiKey>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {KEY} from app_api_keys k where app_id = $1 order by key_id"
        )))
        .bind(app.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(key_of).collect()
    }

    async fn key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<(ApiKey, App)>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {APP}, {KEY} from app_api_keys k join apps a using (app_id) where key_hash = $1"
        )))
        .bind(&hash[..])
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok((key_at(&row, 8)?, app_of(&row)?))).transpose()
    }

    async fn revoke_key(&self, key: KeyId, audit: &Audit) -> Result<Option<ApiKey>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "update app_api_keys k set revoked_at = coalesce(revoked_at, now()) where key_id = $1 returning {KEY}"
        )))
        .bind(key.0)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let revoked = key_of(&row)?;
        Self::raise_identity_revision(&mut transaction).await?;
        write_audit(&mut transaction, audit, "key.revoke", &key.to_string(), &revoked.app_id).await?;
        transaction.commit().await?;
        Ok(Some(revoked))
    }

    async fn touch_keys(&self, used: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        let (ids, times): (Vec<Uuid>, Vec<DateTime<Utc>>) =
            used.iter().map(|(key, at)| (key.0, at.as_datetime())).unzip();
        sqlx::query(
            "update app_api_keys k set last_used_at = greatest(k.last_used_at, used.at) \
             from unnest($1::uuid[], $2::timestamptz[]) as used (key_id, at) where k.key_id = used.key_id",
        )
        .bind(&ids)
        .bind(&times)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn identity_revision(&self) -> Result<u64, StoreError> {
        let revision: i64 = sqlx::query_scalar("select value::bigint from hub_meta where key = 'identity_revision'")
            .fetch_one(&self.pool)
            .await?;
        Ok(revision.unsigned_abs())
    }

    async fn revoked_credentials(&self, since: Timestamp) -> Result<RevokedCredentials, StoreError> {
        let apps: Vec<String> =
            sqlx::query_scalar("select app_id from apps where not is_active").fetch_all(&self.pool).await?;
        let keys: Vec<Uuid> = sqlx::query_scalar("select key_id from app_api_keys where revoked_at >= $1")
            .bind(since.as_datetime())
            .fetch_all(&self.pool)
            .await?;
        Ok(RevokedCredentials {
            apps: apps.iter().filter_map(|app| AppId::parse(app).ok()).collect(),
            keys: keys.into_iter().map(KeyId).collect(),
        })
    }
}

async fn insert_key(connection: &mut PgConnection, key: &NewKey) -> Result<PgRow, StoreError> {
    Ok(sqlx::query(sqlx::AssertSqlSafe(format!(
        "insert into app_api_keys as k (key_id, app_id, key_hash, prefix) values ($1, $2, $3, $4) returning {KEY}"
    )))
    .bind(key.id.0)
    .bind(key.app_id.as_str())
    .bind(&key.hash[..])
    .bind(&key.prefix)
    .fetch_one(connection)
    .await?)
}

pub(super) async fn write_audit(
    connection: &mut PgConnection,
    audit: &Audit,
    action: &str,
    subject: &str,
    app: &AppId,
) -> Result<(), StoreError> {
    sqlx::query(
        "insert into audit_log (id, actor, action, subject, app_id, ip_address, at) \
         values ($1, $2, $3, $4, $5, $6::inet, now())",
    )
    .bind(Uuid::now_v7())
    .bind(&audit.actor)
    .bind(action)
    .bind(subject)
    .bind(app.as_str())
    .bind(ip_text(audit.ip))
    .execute(connection)
    .await?;
    Ok(())
}

fn app_id(text: &str) -> Result<AppId, StoreError> {
    AppId::parse(text).map_err(|error: Invalid| StoreError::Failed(sqlx::Error::Decode(Box::new(error))))
}

fn app_of(row: &PgRow) -> Result<App, StoreError> {
    Ok(App {
        id: app_id(row.try_get(0)?)?,
        name: row.try_get(1)?,
        icon_url: row.try_get(2)?,
        is_active: row.try_get(3)?,
        is_platform: row.try_get(4)?,
        limits: row.try_get::<Json<LimitOverrides>, _>(5)?.0,
        created_at: row.try_get::<DateTime<Utc>, _>(6)?.into(),
        updated_at: row.try_get::<DateTime<Utc>, _>(7)?.into(),
    })
}

fn key_of(row: &PgRow) -> Result<ApiKey, StoreError> {
    key_at(row, 0)
}

fn key_at(row: &PgRow, first: usize) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        id: KeyId(row.try_get(first)?),
        app_id: app_id(row.try_get(first + 1)?)?,
        prefix: row.try_get(first + 2)?,
        created_at: row.try_get::<DateTime<Utc>, _>(first + 3)?.into(),
        last_used_at: row.try_get::<Option<DateTime<Utc>>, _>(first + 4)?.map(Timestamp::from),
        revoked_at: row.try_get::<Option<DateTime<Utc>>, _>(first + 5)?.map(Timestamp::from),
    })
}
