//! The migrations that this binary was built with. sqlx's own macro would do the same, but for it the whole of sqlx, SQLite
//! included, is compiled a second time.

use std::borrow::Cow;

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

/// The files `migrations/FOLDER/NAME.sql`, in order, as `(name, text)`.
macro_rules! migration_files {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$((
            $name,
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/", $folder, "/", $name, ".sql")),
        )),*]
    };
}
pub(super) use migration_files;

/// A migrator over files whose names are `0001_two_words`. The number is the version, and the words its description.
pub(super) fn migrator(files: &[(&'static str, &'static str)]) -> Migrator {
    let migrations = files.iter().map(|(name, sql)| {
        let (version, description) = name.split_once('_').unwrap_or((name, ""));
        Migration::new(
            version.parse().unwrap_or_default(),
            Cow::Owned(description.replace('_', " ")),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    });
    Migrator::with_migrations(migrations.collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[tokio::test]
    async fn every_file_of_the_folders_is_built_in() {
        for (folder, files) in
            [("postgres", super::super::postgres::MIGRATION_FILES), ("sqlite", super::super::sqlite::MIGRATION_FILES)]
        {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
            let read = sqlx::migrate::Migrator::new(path).await.unwrap();
            let facts = |migrator: &sqlx::migrate::Migrator| -> Vec<_> {
                migrator.iter().map(|one| (one.version, one.description.clone(), one.checksum.clone())).collect()
            };
            assert_eq!(facts(&super::migrator(files)), facts(&read), "{folder}");
        }
    }
}
