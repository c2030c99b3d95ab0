//! Idempotency keys whose first request is in progress (contract §4).

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use oriva_hub_actors::model::AppId;

/// The keys, by app. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct InFlightKeys(Arc<Mutex<HashSet<(AppId, String)>>>);

/// A key that is in use until this is dropped.
pub(super) struct InFlightKey {
    keys: InFlightKeys,
    key: (AppId, String),
}

impl InFlightKeys {
    /// Marks a key as in use. `None` if it already is.
    pub(super) fn begin(&self, app: &AppId, key: &str) -> Option<InFlightKey> {
        let key = (app.clone(), key.to_owned());
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        is_new.then(|| InFlightKey { keys: self.clone(), key })
    }
}

impl Drop for InFlightKey {
    fn drop(&mut self) {
        self.keys.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
