//! Numbers in the store that rise with every change of something that nodes keep in memory. A node that reads another
//! number reads the thing anew.

use super::{dialect::Dialect, statement::Statement};
use crate::store::StoreError;

/// Has every node see, within a second, that an app or key changed.
pub(in crate::store) async fn raise_identity_revision<D: Dialect>(
    connection: &mut D::Connection,
) -> Result<(), StoreError> {
    raise::<D>(connection, "identity_revision").await
}

/// Has every writing transaction from now on match events with what webhooks subscribe to now.
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
