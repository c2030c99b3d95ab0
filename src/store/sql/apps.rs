//! Apps and their keys.

use std::collections::HashSet;

use async_trait::async_trait;
use oriva_hub_actors::model::{AppId, KeyId, StreamKey, Timestamp};
use uuid::Uuid;

use super::{
    audit::write_audit,
    dialect::{Commit as _, Dialect, SqlRow as _, SqlStore},
    revisions::raise_identity_revision,
    rows::{KEY, app_columns, app_from_row, key_from_row, qualified},
    statement::{Kind, Rows, Statement, Value},
};
use crate::store::{ApiKey, App, AppChange, AppStore, Audit, LimitOverrides, NewApp, NewKey, Revisions, StoreError};

#[async_trait]
impl<S: SqlStore> AppStore for S {
    async fn create_app(&self, app: &NewApp, key: Option<&NewKey>, audit: &Audit) -> Result<App, StoreError> {
        let mut transaction = self.begin_write().await?;
        let insert = Statement::new(format!(
            "insert into apps (app_id, name, icon_url, is_platform, limits, created_at, updated_at) \
             values ($1, $2, $3, $4, {limits}, {now}, {now}) returning {columns}",
            limits = S::Db::json("$5"),
            now = S::Db::NOW,
            columns = app_columns::<S::Db>()
        ));
        let insert = insert.bind(app.id.as_str()).bind(&app.name).bind(&app.icon_url).bind(app.is_platform);
        let row = S::Db::fetch_one(&mut transaction, insert.bind(limits(Some(&app.limits))?)).await?;
        if let Some(key) = key {
            S::Db::fetch_one(&mut transaction, insert_key::<S::Db>(key)).await?;
        }
        raise_identity_revision::<S::Db>(&mut transaction).await?;
        write_audit::<S::Db>(&mut transaction, audit, "app.create", app.id.as_str(), &app.id).await?;
        transaction.commit().await?;
        app_from_row(&row)
    }

    async fn app(&self, app: &AppId) -> Result<Option<App>, StoreError> {
        let query =
            Statement::new(format!("select {} from apps where app_id = $1", app_columns::<S::Db>())).bind(app.as_str());
        self.query_optional(&StreamKey::Broadcast, query).await?.as_ref().map(app_from_row).transpose()
    }

    async fn apps(&self) -> Result<Vec<App>, StoreError> {
        let query = Statement::new(format!("select {} from apps order by app_id", app_columns::<S::Db>()));
        self.query_all(&StreamKey::Broadcast, query).await?.iter().map(app_from_row).collect()
    }

    async fn update_app(&self, app: &AppId, change: &AppChange, audit: &Audit) -> Result<Option<App>, StoreError> {
        let mut transaction = self.begin_write().await?;
        let update = Statement::new(format!(
            "update apps set name = coalesce($2, name), icon_url = case when $3 then $4 else icon_url end, \
             is_active = coalesce($5, is_active), is_platform = coalesce($6, is_platform), \
             limits = coalesce({}, limits), updated_at = {} where app_id = $1 returning {}",
            S::Db::json("$7"),
            S::Db::NOW,
            app_columns::<S::Db>()
        ));
        let update = update
            .bind(app.as_str())
            .bind(&change.name)
            .bind(change.icon_url.is_some())
            .bind(change.icon_url.as_ref().and_then(|icon| icon.as_deref()))
            .bind(change.is_active)
            .bind(change.is_platform)
            .bind(limits(change.limits.as_ref())?);
        let Some(row) = S::Db::fetch_optional(&mut transaction, update).await? else { return Ok(None) };
        raise_identity_revision::<S::Db>(&mut transaction).await?;
        write_audit::<S::Db>(&mut transaction, audit, "app.update", app.as_str(), app).await?;
        transaction.commit().await?;
        app_from_row(&row).map(Some)
    }

    async fn delete_app(&self, app: &AppId, audit: &Audit) -> Result<bool, StoreError> {
        let mut transaction = self.begin_write().await?;
        let keys = Statement::new("delete from app_api_keys where app_id = $1").bind(app.as_str());
        S::Db::execute(&mut transaction, keys).await?;
        let delete = Statement::new("delete from apps where app_id = $1").bind(app.as_str());
        if S::Db::execute(&mut transaction, delete).await? == 0 {
            return Ok(false);
        }
        raise_identity_revision::<S::Db>(&mut transaction).await?;
        write_audit::<S::Db>(&mut transaction, audit, "app.delete", app.as_str(), app).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn add_key(&self, key: &NewKey, audit: &Audit) -> Result<ApiKey, StoreError> {
        let mut transaction = self.begin_write().await?;
        let row = S::Db::fetch_one(&mut transaction, insert_key::<S::Db>(key)).await?;
        raise_identity_revision::<S::Db>(&mut transaction).await?;
        write_audit::<S::Db>(&mut transaction, audit, "key.create", &key.id.to_string(), &key.app_id).await?;
        transaction.commit().await?;
        key_from_row(&row, 0)
    }

    async fn keys(&self, app: &AppId) -> Result<Vec<ApiKey>, StoreError> {
        let query = Statement::new(format!("select {KEY} from app_api_keys where app_id = $1 order by key_id"));
        let rows = self.query_all(&StreamKey::Broadcast, query.bind(app.as_str())).await?;
        rows.iter().map(|row| key_from_row(row, 0)).collect()
    }

    async fn key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<(ApiKey, App)>, StoreError> {
        let query = Statement::new(format!(
            "select {}, {} from app_api_keys k join apps a on a.app_id = k.app_id where k.key_hash = $1",
            qualified("a", &app_columns::<S::Db>()),
            qualified("k", KEY)
        ));
        let row = self.query_optional(&StreamKey::Broadcast, query.bind(&hash[..])).await?;
        row.map(|row| Ok((key_from_row(&row, 8)?, app_from_row(&row)?))).transpose()
    }

    async fn revoke_key(&self, key: KeyId, audit: &Audit) -> Result<Option<ApiKey>, StoreError> {
        let mut transaction = self.begin_write().await?;
        let update = Statement::new(format!(
            "update app_api_keys set revoked_at = coalesce(revoked_at, {}) where key_id = $1 returning {KEY}",
            S::Db::NOW
        ));
        let Some(row) = S::Db::fetch_optional(&mut transaction, update.bind(key.0)).await? else { return Ok(None) };
        let revoked = key_from_row(&row, 0)?;
        raise_identity_revision::<S::Db>(&mut transaction).await?;
        write_audit::<S::Db>(&mut transaction, audit, "key.revoke", &key.to_string(), &revoked.app_id).await?;
        transaction.commit().await?;
        Ok(Some(revoked))
    }

    async fn touch_keys(&self, used: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        let mut transaction = self.begin_write().await?;
        let mut rows = Rows::new(&[("key_id", Kind::Id), ("at", Kind::Moment)]);
        for (key, at) in used {
            rows.push([key.0.into(), (*at).into()]);
        }
        let with = "with used (key_id, at) as (";
        let after = ") update app_api_keys set last_used_at = used.at from used where app_api_keys.key_id = used.key_id \
                     and (last_used_at is null or last_used_at < used.at)";
        S::Db::execute_each(&mut transaction, S::Db::with_rows(with, rows, after)).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn revisions(&self) -> Result<Revisions, StoreError> {
        let query = Statement::new(
            "select cast(identity.value as bigint), epoch.value from hub_meta identity, hub_meta epoch \
             where identity.key = 'identity_revision' and epoch.key = 'epoch'",
        );
        let row = self.query_one(query).await?;
        Ok(Revisions { identity: row.big(0)?, epoch: row.text(1)? })
    }

    async fn valid_keys(&self, keys: &[KeyId]) -> Result<HashSet<KeyId>, StoreError> {
        let ids: Vec<Uuid> = keys.iter().map(|key| key.0).collect();
        let mut valid = HashSet::new();
        for run in S::Db::id_runs(&ids) {
            let mut query = Statement::new("select key_id from app_api_keys where revoked_at is null and ");
            S::Db::push_any(&mut query, "key_id", run);
            for row in self.query_all(&StreamKey::Broadcast, query).await? {
                valid.insert(KeyId(row.id(0)?));
            }
        }
        Ok(valid)
    }
}

fn limits<'q>(limits: Option<&LimitOverrides>) -> Result<Value<'q>, StoreError> {
    let text = limits.map(serde_json::to_string).transpose();
    Ok(text.map_err(StoreError::failed)?.into())
}

fn insert_key<D: Dialect>(key: &NewKey) -> Statement<'_> {
    let insert = Statement::new(format!(
        "insert into app_api_keys (key_id, app_id, key_hash, prefix, created_at) values ($1, $2, $3, $4, {}) \
         returning {KEY}",
        D::NOW
    ));
    insert.bind(key.id.0).bind(key.app_id.as_str()).bind(&key.hash[..]).bind(&key.prefix)
}
