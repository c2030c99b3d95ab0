//! The lock that keeps a second hub from serving the same embedded store. It would hear of the first one's commits late,
//! and each would count limits for itself.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use super::error::ServeError;

/// The right to serve an embedded store. It ends when this is dropped, or with the process.
///
/// The lock (flock) is on the store's file itself, so it is found by whatever name the file is opened. It is no matter to
/// SQLite, whose own locks are of another kind (fcntl). Closing any handle of the file would release those: this one is
/// closed after the store.
#[derive(Debug)]
pub(super) struct StoreLock {
    _held: File,
}

impl StoreLock {
    /// Takes the lock. Creates the store's file and folder where they are missing.
    ///
    /// # Errors
    /// [`ServeError::Served`]: another hub has it. [`ServeError::Lock`]: the file cannot be opened for writing.
    pub fn acquire(store: &Path) -> Result<Self, ServeError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| ServeError::Lock(path, error)
        };
        if let Some(folder) = store.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(failed(folder))?;
        }
        let open = OpenOptions::new().create(true).append(true).mode(0o600).open(store);
        let file = open.map_err(failed(store))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ServeError::Served(store.to_owned())),
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                tracing::warn!(file = %store.display(), "no locks on this file system: see that no other hub serves this store");
            }
            Err(TryLockError::Error(error)) => return Err(failed(store)(error)),
        }
        Ok(Self { _held: file })
    }
}
