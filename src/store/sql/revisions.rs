//! Revisions: numbers in the store that rise when something changes that nodes keep in memory. A node that finds
//! another number reads the thing again.

use super::{dialect::Dialect, statement::Statement};
use crate::store::StoreError;

/// Makes every node notice, within a second, that an app or key has changed.
pub(in crate::store) async fn raise_identity_revision<D: Dialect>(
    connection: &mut D::Connection,
) -> Result<(), StoreError> {
    raise::<D>(connection, "identity_revision").await
}

/// Makes every transaction from now on use the current subscriptions of webhooks.
pub(in crate::store) async fn raise_webhook_revision<D: Dialect>(
    connection: &mut D::Connection,
) -> Result<(), StoreError> {
    raise::<D>(connection, "webhook_revision").await
}

async fn raise<D: Dialect>(connection: &mut D::Connection, key: &str) -> Result<(), StoreError> {
    let update =
        Statement::new("update hub_meta set value = cast(cast(value as bigint) + 1 as text) where key = $1").bind(key);
    D::execute(connection, update).await.map(drop)
}
