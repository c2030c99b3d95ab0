//! The migrations that this binary was built with. sqlx's own macro would do the same, but for it the whole of sqlx, SQLite
//! included, is compiled a second time.

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

/// The version and the description in a file's name, such as `0001_two_words`.
pub(super) fn version_and_description(name: &str) -> (i64, String) {
    let (version, description) = name.split_once('_').unwrap_or((name, ""));
    (version.parse().unwrap_or_default(), description.replace('_', " "))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn every_file_of_the_folders_is_built_in() {
        for (folder, files) in
            [("postgres", super::super::postgres::MIGRATION_FILES), ("sqlite", super::super::sqlite::MIGRATION_FILES)]
        {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
            let mut found: Vec<_> = std::fs::read_dir(&path)
                .unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort_unstable();
            let built_in: Vec<_> = files.iter().map(|(name, _)| format!("{name}.sql")).collect();
            assert_eq!(found, built_in, "{folder}");
            for (name, text) in files {
                assert_eq!(*text, std::fs::read_to_string(path.join(format!("{name}.sql"))).unwrap());
            }
        }
    }
}
