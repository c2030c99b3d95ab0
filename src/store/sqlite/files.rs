//! The files of an embedded store, as they were when it was opened. What SQLite writes into a file that was removed is
//! acknowledged and gone, and it does not notice.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::store::{Outage, StoreError};

/// Bytes that have to be free before a full disk counts as mended.
const LEAST_ROOM: u64 = 1 << 20;

/// Less room than this is little.
const LITTLE_ROOM: u64 = 1 << 30;

/// Device and inode: the same for as long as it is the same file.
type Identity = (u64, u64);

fn identity(file: &Path) -> Option<Identity> {
    file.metadata().ok().map(|about| (about.dev(), about.ino()))
}

/// Which files a store is.
#[derive(Debug)]
pub(super) struct Files {
    database: PathBuf,
    log: PathBuf,
    /// `None` for a store in memory.
    opened: Option<Identity>,
    /// The write-ahead log's; SQLite makes it with the first transaction.
    opened_log: Mutex<Option<Identity>>,
}

impl Files {
    /// The files of the store at this path.
    pub(super) fn of(database: &Path) -> Self {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        Self {
            database: database.to_owned(),
            log: log.into(),
            opened: identity(database),
            opened_log: Mutex::default(),
        }
    }

    fn opened_log(&self) -> MutexGuard<'_, Option<Identity>> {
        self.opened_log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection may have made a new log.
    pub(super) fn reset_log(&self) {
        *self.opened_log() = None;
    }

    /// Checks that the files are where they were, and that no other ones have come in their place. Two `stat` calls, a
    /// microsecond each on a local disk, which SQLite's log needs anyway: a hop to another thread would cost more.
    ///
    /// # Errors
    /// [`Outage::FileReplaced`].
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.opened.is_none() {
            return Ok(());
        }
        let mut opened_log = self.opened_log();
        let log = identity(&self.log);
        if identity(&self.database) != self.opened || (opened_log.is_some() && log != *opened_log) {
            let moved = self.database.display().to_string();
            return Err(StoreError::Unavailable(Outage::FileReplaced, Some(moved.into())));
        }
        *opened_log = log;
        Ok(())
    }

    /// Checks that there is room for more than a page or two: on a full disk the log may have that, and no more.
    ///
    /// # Errors
    /// [`Outage::Full`].
    pub(super) fn check_room(&self) -> Result<(), StoreError> {
        let is_full = rustix::fs::statvfs(&self.database).is_ok_and(|disk| disk.f_bavail * disk.f_frsize < LEAST_ROOM);
        if is_full { Err(StoreError::Unavailable(Outage::Full, None)) } else { Ok(()) }
    }

    /// What of the disk should be looked at.
    pub(super) fn concerns(&self) -> Vec<String> {
        let room = rustix::fs::statvfs(&self.database).map(|disk| disk.f_bavail * disk.f_frsize);
        room.ok()
            .filter(|room| *room < LITTLE_ROOM)
            .map(|room| format!("{} MiB are left on the disk of {}: make room", room >> 20, self.database.display()))
            .into_iter()
            .collect()
    }

    /// Size of the write-ahead log.
    pub(super) fn log_bytes(&self) -> Option<u64> {
        self.log.metadata().ok().as_ref().map(Metadata::len)
    }
}
