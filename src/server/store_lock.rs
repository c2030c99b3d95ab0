//! An embedded store is served by one hub: what a second one commits, the sockets of the first would hear of late, and
//! limits would be counted by each for itself.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use super::ServeError;

/// The right to serve an embedded store, until it is dropped or the process ends, however it does.
///
/// The lock is on a file beside the store's own: closing another handle of that one would let go of SQLite's locks.
#[derive(Debug)]
pub(super) struct StoreLock {
    _held: File,
}

impl StoreLock {
    /// Takes it. The store's folder is made where it is missing.
    ///
    /// # Errors
    /// [`ServeError::Served`] where another hub has it; [`ServeError::Lock`] where there can be no such file.
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
