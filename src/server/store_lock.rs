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
/// The lock is on a file beside the store's own: closing any handle of that one would release SQLite's locks.
#[derive(Debug)]
pub(super) struct StoreLock {
    _held: File,
}

impl StoreLock {
    /// Takes the lock. Creates the store's folder where it is missing.
    ///
    /// # Errors
    /// [`ServeError::Served`]: another hub has it. [`ServeError::Lock`]: the lock file cannot be created.
    pub fn acquire(store: &Path) -> Result<Self, ServeError> {
        let path = store.with_extension("lock");
        let failed = |error| ServeError::Lock(path.clone(), error);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ServeError::Served(store.to_owned())),
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                tracing::warn!(file = %path.display(), "no locks on this file system: see that no other hub serves this store");
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        Ok(Self { _held: file })
    }
}
