//! The settings as a list, with secrets masked.

use figment::value::Value;
use serde::Serialize;

use super::{ConfigError, Loaded, Secrets, secrets};

const MASK: &str = "********";

/// A setting with its effective value and its source.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// The setting, with its section.
    pub key: String,
    /// Its value; secrets are masked.
    pub value: String,
    /// Where the value comes from.
    pub source: String,
}

impl Loaded {
    /// Every setting that has a value, by key.
    ///
    /// # Errors
    /// Where the sources cannot be read again.
    pub fn settings(&self) -> Result<Vec<Setting>, ConfigError> {
        let value: Value = self.figment.extract().map_err(|error| ConfigError(error.to_string()))?;
        let mut settings = Vec::new();
        self.collect(String::new(), &value, &mut settings);
        // Secrets that are in no settings are in the file beside an embedded store.
        if let Some(file) = Secrets::file(&self.config).filter(|file| file.exists()) {
            for name in secrets::KEPT {
                let (key, source) = (format!("auth.{name}"), file.display().to_string());
                if settings.iter().all(|setting| setting.key != key) {
                    settings.push(Setting { key, value: MASK.to_owned(), source });
                }
            }
        }
        Ok(settings)
    }

    fn collect(&self, key: String, value: &Value, settings: &mut Vec<Setting>) {
        if let Some(dict) = value.as_dict() {
            for (name, inner) in dict {
                let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                self.collect(path, inner, settings);
            }
            return;
        }
        let source = self.figment.find_metadata(&key).map_or_else(String::new, |metadata| match &metadata.source {
            Some(source) => source.to_string(),
            None => metadata.name.to_string(),
        });
        let value = masked(&key, &plain(value));
        settings.push(Setting { key, value, source });
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        Value::Array(_, items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, number) => number
            .to_u128()
            .map(|n| n.to_string())
            .or_else(|| number.to_i128().map(|n| n.to_string()))
            .unwrap_or_default(),
        _ => String::new(),
    }
}

/// Masks a secret, and the password in a URL.
fn masked(key: &str, value: &str) -> String {
    if key.starts_with("auth.") {
        return if value.is_empty() { String::new() } else { MASK.to_owned() };
    }
    masked_url(value)
}

/// A URL without its passwords; other text as it is. Rather more is masked than less: passwords may stand there unencoded.
#[must_use]
pub fn masked_url(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_owned() };
    let (login, place) = rest.rsplit_once('@').map_or((None, rest), |(login, place)| (Some(login), place));
    let login = login.map_or_else(String::new, |login| match login.split_once(':') {
        Some((user, _)) => format!("{user}:{MASK}@"),
        None => format!("{login}@"),
    });
    // PostgreSQL accepts a password as a parameter, too.
    let masked = format!("{scheme}://{login}{place}");
    let parts = masked.split_inclusive(['?', '&']).map(|part| match part.split_once('=') {
        Some((name, rest)) if is_password(name) => {
            let end = if rest.ends_with('&') { "&" } else { "" };
            format!("{name}={MASK}{end}")
        }
        _ => part.to_owned(),
    });
    parts.collect()
}

/// Whether a parameter's name says that its value is a password. The driver reads `p%61ssword` as one, too.
fn is_password(name: &str) -> bool {
    name.contains('%') || name.to_ascii_lowercase().contains("password")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_passwords_are_masked() {
        assert_eq!(masked("auth.admin_key", "abc"), "********");
        assert_eq!(masked("database.url", "postgres://hub:p@ss@db/hub"), "postgres://hub:********@db/hub");
        assert_eq!(masked("database.url", "sqlite://./data/hub.db"), "sqlite://./data/hub.db");
        for (url, shown) in [
            ("postgres://hub:p?ss@db/hub", "postgres://hub:********@db/hub"),
            ("postgres://hub:p/@#:ss@db/hub?a=b", "postgres://hub:********@db/hub?a=b"),
            ("postgres://db/hub?sslpassword=x&a=b", "postgres://db/hub?sslpassword=********&a=b"),
            ("postgres://db/hub?a=b&password=x@y", "postgres://db/hub?a=b&password=********"),
            ("postgres://db/hub?p%61ssword=x", "postgres://db/hub?p%61ssword=********"),
            ("redis://:secret@cache", "redis://:********@cache"),
        ] {
            assert_eq!(masked_url(url), shown);
        }
    }
}
