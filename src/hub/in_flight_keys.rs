//! Idempotency keys whose first request is in progress (contract §4).

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use oriva_hub_actors::model::AppId;

/// The keys, by app.
#[derive(Default)]
pub(super) struct InFlightKeys(Mutex<HashSet<(AppId, String)>>);

/// A key that is in use until this is dropped.
pub(super) struct InFlightKey<'a> {
    keys: &'a InFlightKeys,
    key: (AppId, String),
}

impl InFlightKeys {
    /// Marks a key as in use. `None` if it already is.
    pub(super) fn begin(&self, app: &AppId, key: &str) -> Option<InFlightKey<'_>> {
        let key = (app.clone(), key.to_owned());
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        is_new.then(|| InFlightKey { keys: self, key })
    }
}

impl Drop for InFlightKey<'_> {
    fn drop(&mut self) {
        self.keys.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
