//! The secrets of a node: from the settings or, for an embedded store, from a file that is created once and that only
//! its owner can read.

use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use figment::{
    Figment,
    providers::{Format as _, Toml},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{Config, ConfigError};

/// All secrets of section `auth`.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// Signs tokens.
    pub token_secret: SecretString,
    /// Opens the admin routes.
    pub admin_key: SecretString,
    /// Base64 of 32 bytes.
    pub encryption_key: SecretString,
    /// They open what was sealed before the present key.
    pub previous_encryption_keys: Vec<SecretString>,
}

/// The secrets in the file.
pub(super) const KEPT: [&str; 3] = ["token_secret", "admin_key", "encryption_key"];

/// The contents of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    token_secret: Option<SecretString>,
    admin_key: Option<SecretString>,
    encryption_key: Option<SecretString>,
}

impl Secrets {
    /// The file for secrets that the settings leave out: `hub.secrets.toml` beside `hub.db`, `hub.sqlite.secrets.toml` beside
    /// `hub.sqlite`.
    #[must_use]
    pub fn file(config: &Config) -> Option<PathBuf> {
        let auth = &config.auth;
        let all_set = auth.token_secret.is_some() && auth.admin_key.is_some() && auth.encryption_key.is_some();
        config.embedded_file().filter(|_| !all_set).map(|file| file_beside(&file))
    }

    /// Checks that every secret is set or can be kept, without writing anything.
    ///
    /// # Errors
    /// Where a required secret is not set, or the file cannot be read.
    pub fn check(config: &Config) -> Result<(), ConfigError> {
        match Self::file(config) {
            Some(file) if file.exists() => read(&file).map(drop),
            Some(_) => Ok(()),
            None => Self::resolve(config).map(drop),
        }
    }

    /// Takes secrets from the settings. For an embedded store, those that are missing come from its file, which is
    /// created if necessary.
    ///
    /// # Errors
    /// Where a required secret is not set, or the file cannot be read or written.
    pub fn resolve(config: &Config) -> Result<Self, ConfigError> {
        let auth = &config.auth;
        let previous_encryption_keys: Vec<SecretString> =
            auth.previous_encryption_keys.iter().cloned().map(SecretString::from).collect();
        let kept = match (auth.token_secret.clone(), auth.admin_key.clone(), auth.encryption_key.clone()) {
            (Some(token_secret), Some(admin_key), Some(encryption_key)) => {
                return Ok(Self { token_secret, admin_key, encryption_key, previous_encryption_keys });
            }
            _ => match Self::file(config) {
                Some(file) => keep(&file)?,
                None => Kept::default(),
            },
        };
        let pick = |set: &Option<SecretString>, kept: Option<SecretString>, name: &str| {
            set.clone().or(kept).ok_or_else(|| {
                ConfigError(format!("auth.{name} must be set: with PostgreSQL the hub cannot keep it by itself"))
            })
        };
        Ok(Self {
            token_secret: pick(&auth.token_secret, kept.token_secret, "token_secret")?,
            admin_key: pick(&auth.admin_key, kept.admin_key, "admin_key")?,
            encryption_key: pick(&auth.encryption_key, kept.encryption_key, "encryption_key")?,
            previous_encryption_keys,
        })
    }
}

/// Two stores of one folder do not share their secrets. A store that was made when they did goes on with the file it has.
fn file_beside(store: &Path) -> PathBuf {
    let short = store.with_extension("secrets.toml");
    if store.extension().is_some_and(|extension| extension == "db") {
        return short;
    }
    let mut long = store.as_os_str().to_owned();
    long.push(".secrets.toml");
    let long = PathBuf::from(long);
    let is_its_own = store.exists() && short.exists() && !store.with_extension("db").exists();
    if !long.exists() && is_its_own { short } else { long }
}

fn keep(path: &Path) -> Result<Kept, ConfigError> {
    let failed = |error: &dyn std::fmt::Display| ConfigError(format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    }
    // Written under another name, then linked: two commands that start at once end up with the same file.
    let mut fresh = tempfile_beside(path).map_err(|error| failed(&error))?;
    let random = |bytes: usize| {
        let mut buffer = vec![0_u8; bytes];
        rand::fill(&mut buffer[..]);
        BASE64_STANDARD.encode(buffer)
    };
    let linked = write!(
        fresh.1,
        "# Made by oriva-hub for the store beside it. Keep it as safe as the store, and back it up with it.\n\
         token_secret = \"{}\"\nadmin_key = \"{}\"\nencryption_key = \"{}\"\n",
        random(48),
        random(48),
        random(32)
    )
    .and_then(|()| fresh.1.sync_all())
    .and_then(|()| match std::fs::hard_link(&fresh.0, path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let _ = std::fs::remove_file(&fresh.0);
    linked.map_err(|error| failed(&error))?;
    read(path)
}

fn read(path: &Path) -> Result<Kept, ConfigError> {
    let failed = |error: &dyn std::fmt::Display| ConfigError(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    Figment::from(Toml::string(&text))
        .extract()
        .map_err(|_| failed(&"must hold token_secret, admin_key and encryption_key, and nothing else"))
}

fn tempfile_beside(path: &Path) -> std::io::Result<(PathBuf, std::fs::File)> {
    let name = path.with_extension(format!("toml.{:08x}", rand::random::<u32>()));
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&name)?;
    Ok((name, file))
}

/// Whether text is base64 of 32 bytes.
pub(super) fn is_encryption_key(text: &str) -> bool {
    BASE64_STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == 32)
}

/// Compares secrets in constant time.
#[must_use]
pub fn matches(secret: &SecretString, presented: &str) -> bool {
    use subtle::ConstantTimeEq as _;
    secret.expose_secret().as_bytes().ct_eq(presented.as_bytes()).into()
}
