//! Object storage for archived rows: compressed, newline-delimited JSON, in a directory or in S3 (data-model,
//! 'Retention').

use std::{io::Write as _, path::PathBuf};

use flate2::{Compression, write::GzEncoder};
use object_store::{
    ObjectStore, ObjectStoreExt as _, PutPayload, aws::AmazonS3Builder, local::LocalFileSystem, path::Path,
};
use url::Url;

use crate::crypto;

/// What `retention.archive_url` must be.
pub const RULE: &str = "file:///DIRECTORY or s3://BUCKET/PREFIX";

/// An object store.
pub struct ObjectArchive {
    store: Box<dyn ObjectStore>,
    prefix: Path,
}

/// Why an object cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The address has a form that no archive has.
    #[error("it must be {RULE}")]
    Address,
    /// The directory cannot be made.
    #[error("the directory {} cannot be made", .0.display())]
    Directory(PathBuf, #[source] std::io::Error),
    /// The object's bytes could not be put together.
    #[error("the object cannot be put together")]
    Object(#[source] std::io::Error),
    /// The bucket cannot be reached as configured.
    #[error("the storage does not answer as it should")]
    Storage(#[from] object_store::Error),
    /// The address names a path that no object can have.
    #[error("the storage's address cannot be read")]
    Path(#[from] object_store::path::Error),
    /// An object that was written is not as long as it should be.
    #[error("an object of {expected} bytes is there with {found}")]
    Short {
        /// Its size in bytes.
        expected: u64,
        /// The size that the archive says.
        found: u64,
    },
}

impl ObjectArchive {
    /// Opens `file:///DIRECTORY`, which is created if it is missing, or `s3://BUCKET/PREFIX`, with credentials, region
    /// and endpoint from the `AWS_…` environment variables.
    ///
    /// # Errors
    /// Where it is neither, or cannot be opened.
    pub fn open(url: &str) -> Result<Self, ArchiveError> {
        let parsed = parse(url).ok_or(ArchiveError::Address)?;
        crypto::install();
        let (store, prefix): (Box<dyn ObjectStore>, &str) = match parsed.to_file_path() {
            Ok(directory) if parsed.scheme() == "file" => {
                std::fs::create_dir_all(&directory)
                    .map_err(|error| ArchiveError::Directory(directory.clone(), error))?;
                let local = LocalFileSystem::new_with_prefix(directory)?;
                // With fsync: once an object is confirmed, its rows are deleted, so it must survive a power cut.
                (Box::new(local.with_fsync(true)), "")
            }
            _ => {
                let bucket = AmazonS3Builder::from_env().with_url(url).build()?;
                (Box::new(bucket), parsed.path())
            }
        };
        Ok(Self { store, prefix: Path::parse(prefix.trim_matches('/'))? })
    }

    /// Stores an object. The same name replaces it. Before this returns, the archive has said that the object has its
    /// full size.
    ///
    /// # Errors
    /// Where that fails.
    pub async fn put(&self, name: &str, lines: String) -> Result<(), ArchiveError> {
        // Compressed on another thread, because commits wait for this one.
        let object = tokio::task::spawn_blocking(move || gzip(&lines)).await;
        let object = object.map_err(std::io::Error::other).and_then(|object| object).map_err(ArchiveError::Object)?;
        let expected = object.len() as u64;
        let path = name.split('/').fold(self.prefix.clone(), |path, part| path.join(part));
        self.store.put(&path, PutPayload::from(object)).await?;
        let found = self.store.head(&path).await?.size;
        if found == expected { Ok(()) } else { Err(ArchiveError::Short { expected, found }) }
    }
}

/// Whether a URL can be opened.
#[must_use]
pub fn is_url(url: &str) -> bool {
    parse(url).is_some()
}

fn parse(url: &str) -> Option<Url> {
    let is_one = |parsed: &Url| {
        let is_place = match parsed.scheme() {
            // `file:x` would be `file:///x`.
            "file" => url.starts_with("file:///") && parsed.path().len() > 1,
            "s3" => parsed.has_host() && parsed.username().is_empty() && parsed.password().is_none(),
            _ => false,
        };
        is_place && parsed.port().is_none() && parsed.query().is_none() && parsed.fragment().is_none()
    };
    Url::parse(url).ok().filter(is_one)
}

fn gzip(text: &str) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_buckets_are_addresses_and_nothing_else_is() {
        for url in ["file:///var/lib/archive", "s3://bucket", "s3://bucket/a/prefix"] {
            assert!(is_url(url), "{url}");
        }
        for url in [
            "",
            "/var/lib/archive",
            "file://host/archive",
            "file:///",
            "file:archive",
            "file:/var/lib/archive",
            "file:///var/lib/archive?x",
            "file:///var/lib/archive#1",
            "https://example.com",
            "s3:///nothing",
            "s3://key:secret@bucket",
            "s3://bucket?region=eu",
        ] {
            assert!(!is_url(url), "{url}");
        }
    }
}
