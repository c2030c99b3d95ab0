//! Apps and keys in SQLite.

use async_trait::async_trait;
use oriva_hub_actors::model::{AppId, Invalid, KeyId, RevokedCredentials, Timestamp};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow, types::Json};
use uuid::Uuid;

use super::SqliteStore;
use crate::store::{ApiKey, App, AppChange, AppStore, Audit, LimitOverrides, NewApp, NewKey, StoreError, ip_text};

const APP: &str = "a.app_id, a.name, a.icon_url, a.is_active, a.is_platform, a.limits, a.created_at, a.updated_at";
/// The same for `returning`, which knows no alias.
const APP_RETURNED: &str = "app_id, name, icon_url, is_active, is_platform, limits, created_at, updated_at";
const KEY: &str = "k.key_id, k.app_id, k.prefix, k.created_at, k.last_used_at, k.revoked_at";
const KEY_RETURNED: &str = "key_id, app_id, prefix, created_at, last_used_at, revoked_at";

#[async_trait]
impl AppStore for SqliteStore {
    async fn create_app(&self, app: &NewApp, key: Option<&NewKey>, audit: &Audit) -> Result<App, StoreError> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "insert into apps (app_id, name, icon_url, is_platform, limits, created_at, updated_at) values (?1, ?2, ?3, ?4, ?5, ?6, ?6) returning {APP_RETURNED}"
        )))
        .bind(app.id.as_str())
        .bind(&app.name)
        .bind(&app.icon_url)
        .bind(app.is_platform)
        .bind(Json(&app.limits))
        .bind(Timestamp::now().unix_ms())
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
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("select {APP} from apps a where app_id = ?1")))
            .bind(app.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(app_of).transpose()
    }

    async fn apps(&self) -> Result<Vec<App>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("select {APP} from apps a order by app_id")))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(app_of).collect()
    }

    async fn update_app(&self, app: &AppId, change: &AppChange, audit: &Audit) -> Result<Option<App>, StoreError> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "update apps set name = coalesce(?2, name), icon_url = case when ?3 then ?4 else icon_url end, \
             is_active = coalesce(?5, is_active), is_platform = coalesce(?6, is_platform), \
             limits = coalesce(?7, limits), updated_at = ?8 where app_id = ?1 returning {APP_RETURNED}"
        )))
        .bind(app.as_str())
        .bind(&change.name)
        .bind(change.icon_url.is_some())
        .bind(change.icon_url.as_ref().and_then(Option::as_ref))
        .bind(change.is_active)
        .bind(change.is_platform)
        .bind(change.limits.as_ref().map(Json))
        .bind(Timestamp::now().unix_ms())
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Self::raise_identity_revision(&mut transaction).await?;
        write_audit(&mut transaction, audit, "app.update", app.as_str(), app).await?;
        transaction.commit().await?;
        app_of(&row).map(Some)
    }

    async fn delete_app(&self, app: &AppId, audit: &Audit) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        sqlx::query("delete from app_api_keys where app_id = ?1").bind(app.as_str()).execute(&mut *transaction).await?;
        let gone =
            sqlx::query("delete from apps where app_id = ?1").bind(app.as_str()).execute(&mut *transaction).await?;
        if gone.rows_affected() == 0 {
            return Ok(false);
        }
        Self::raise_identity_revision(&mut transaction).await?;
        write_audit(&mut transaction, audit, "app.delete", app.as_str(), app).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn add_key(&self, key: &NewKey, audit: &Audit) -> Result<ApiKey, StoreError> {
        let mut transaction = self.begin().await?;
        let row = insert_key(&mut transaction, key).await?;
        Self::raise_identity_revision(&mut transaction).await?;
        write_audit(&mut transaction, audit, "key.create", &key.id.to_string(), &key.app_id).await?;
        transaction.commit().await?;
        key_of(&row)
    }

    async fn keys(&self, app: &AppId) -> Result<Vec<ApiKey>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {KEY} from app_api_keys k where app_id = ?1 order by key_id"
        )))
        .bind(app.as_str())
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(key_of).collect()
    }

    async fn key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<(ApiKey, App)>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {APP}, {KEY} from app_api_keys k join apps a using (app_id) where key_hash = ?1"
        )))
        .bind(&hash[..])
        .fetch_optional(&self.readers)
        .await?;
        row.map(|row| Ok((key_at(&row, 8)?, app_of(&row)?))).transpose()
    }

    async fn revoke_key(&self, key: KeyId, audit: &Audit) -> Result<Option<ApiKey>, StoreError> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "update app_api_keys set revoked_at = coalesce(revoked_at, ?2) where key_id = ?1 returning {KEY_RETURNED}"
        )))
        .bind(key.0)
        .bind(Timestamp::now().unix_ms())
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
        let mut transaction = self.begin().await?;
        for (key, at) in used {
            sqlx::query("update app_api_keys set last_used_at = max(coalesce(last_used_at, 0), ?2) where key_id = ?1")
                .bind(key.0)
                .bind(at.unix_ms())
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn identity_revision(&self) -> Result<u64, StoreError> {
        let revision: i64 =
            sqlx::query_scalar("select cast(value as integer) from hub_meta where key = 'identity_revision'")
                .fetch_one(&self.readers)
                .await?;
        Ok(revision.unsigned_abs())
    }

    async fn revoked_credentials(&self, since: Timestamp) -> Result<RevokedCredentials, StoreError> {
        let apps: Vec<String> =
            sqlx::query_scalar("select app_id from apps where not is_active").fetch_all(&self.readers).await?;
        let keys: Vec<Uuid> = sqlx::query_scalar("select key_id from app_api_keys where revoked_at >= ?1")
            .bind(since.unix_ms())
            .fetch_all(&self.readers)
            .await?;
        Ok(RevokedCredentials {
            apps: apps.iter().filter_map(|app| AppId::parse(app).ok()).collect(),
            keys: keys.into_iter().map(KeyId).collect(),
        })
    }
}

async fn insert_key(connection: &mut SqliteConnection, key: &NewKey) -> Result<SqliteRow, StoreError> {
    Ok(sqlx::query(sqlx::AssertSqlSafe(format!(
        "insert into app_api_keys (key_id, app_id, key_hash, prefix, created_at) values (?1, ?2, ?3, ?4, ?5) returning {KEY_RETURNED}"
    )))
    .bind(key.id.0)
    .bind(key.app_id.as_str())
    .bind(&key.hash[..])
    .bind(&key.prefix)
    .bind(Timestamp::now().unix_ms())
    .fetch_one(connection)
    .await?)
}

pub(super) async fn write_audit(
    connection: &mut SqliteConnection,
    audit: &Audit,
    action: &str,
    subject: &str,
    app: &AppId,
) -> Result<(), StoreError> {
    sqlx::query(
        "insert into audit_log (id, actor, action, subject, app_id, ip_address, at) \
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )
    .bind(Uuid::now_v7())
    .bind(&audit.actor)
    .bind(action)
    .bind(subject)
    .bind(app.as_str())
    .bind(ip_text(audit.ip))
    .bind(Timestamp::now().unix_ms())
    .execute(connection)
    .await?;
    Ok(())
}

fn app_id(text: &str) -> Result<AppId, StoreError> {
    AppId::parse(text).map_err(|error: Invalid| StoreError::Failed(sqlx::Error::Decode(Box::new(error))))
}

fn app_of(row: &SqliteRow) -> Result<App, StoreError> {
    Ok(App {
        id: app_id(row.try_get(0)?)?,
        name: row.try_get(1)?,
        icon_url: row.try_get(2)?,
        is_active: row.try_get(3)?,
        is_platform: row.try_get(4)?,
        limits: row.try_get::<Json<LimitOverrides>, _>(5)?.0,
        created_at: Timestamp::from_unix_ms(row.try_get(6)?),
        updated_at: Timestamp::from_unix_ms(row.try_get(7)?),
    })
}

fn key_of(row: &SqliteRow) -> Result<ApiKey, StoreError> {
    key_at(row, 0)
}

fn key_at(row: &SqliteRow, first: usize) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        id: KeyId(row.try_get(first)?),
        app_id: app_id(row.try_get(first + 1)?)?,
        prefix: row.try_get(first + 2)?,
        created_at: Timestamp::from_unix_ms(row.try_get(first + 3)?),
        last_used_at: row.try_get::<Option<i64>, _>(first + 4)?.map(Timestamp::from_unix_ms),
        revoked_at: row.try_get::<Option<i64>, _>(first + 5)?.map(Timestamp::from_unix_ms),
    })
}
