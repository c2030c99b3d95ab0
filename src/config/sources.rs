//! Sources of settings, in order of precedence: flag, environment, file, built-in default.

use std::{
    env::VarError,
    path::{Path, PathBuf},
};

use figment::{
    Error, Figment, Metadata, Profile, Provider,
    error::Kind,
    providers::{Env, Format, Toml},
    value::{Dict, Map, Value},
};

use super::{Config, ConfigError, check::check};

const DEFAULTS: &str = include_str!("../../config/default.toml");
const PREFIX: &str = "ORIVA_HUB__";

/// Settings whose value is text even if it looks like a number.
const TEXT: [&str; 9] = [
    "server.bind",
    "database.url",
    "redis.url",
    "auth.token_secret",
    "auth.admin_key",
    "auth.encryption_key",
    "retention.archive_url",
    "log.level",
    "telemetry.otlp_endpoint",
];
/// Settings that a file may hold whose name is in the environment, as containers have secrets: `NAME_FILE` instead of `NAME`.
const FROM_FILES: [&str; 5] =
    ["database.url", "redis.url", "auth.token_secret", "auth.admin_key", "auth.encryption_key"];
/// Variables that say where the database is.
const DATABASE: [&str; 4] =
    ["DATABASE_URL", "DATABASE_URL_FILE", "ORIVA_HUB__DATABASE__URL", "ORIVA_HUB__DATABASE__URL_FILE"];
/// Variables that other programs use too.
const PLAIN: [(&str, &str); 3] =
    [("DATABASE_URL", "database.url"), ("REDIS_URL", "redis.url"), ("RUST_LOG", "log.level")];

/// Settings given on the command line.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--database-url`
    pub database_url: Option<String>,
    /// `--redis-url`
    pub redis_url: Option<String>,
    /// `--bind`
    pub bind: Option<String>,
}

/// Checked settings with their sources.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings of all sources together.
    pub config: Config,
    pub(super) figment: Figment,
}

impl Loaded {
    /// Reads all sources and checks the result.
    ///
    /// # Errors
    /// One line that names the setting and what it must be.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let figment = sources(flags)?;
        let config: Config = figment.extract().map_err(|error| one_line(&error))?;
        check(&config)?;
        Ok(Self { config, figment })
    }
}

fn sources(flags: &Flags) -> Result<Figment, ConfigError> {
    let defaults = Toml::string(DEFAULTS);
    let mut figment = Figment::from(Named { name: "default", inner: defaults });
    refuse_misspelt(&figment)?;
    if let Some(path) = &flags.config {
        must_be_readable(path)?;
        figment = figment.merge(Toml::file_exact(path));
    }
    // With an empty one, as from a template without a value, the hub would serve a new store of its own.
    let is_given = flags.database_url.is_some()
        || DATABASE.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if let Some(name) = DATABASE.iter().find(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()))
        && !is_given
    {
        return Err(ConfigError(format!("{name} is empty: set it to the database, or do not set it at all")));
    }
    for (variable, key) in PLAIN {
        figment = figment.merge(Text::new(variable, key, from_environment(variable, key)?));
    }
    let is_text = |key: &str| {
        let key = key.replace("__", ".").to_lowercase();
        TEXT.contains(&key.as_str()) || key.strip_suffix("_file").is_some_and(|key| FROM_FILES.contains(&key))
    };
    figment = figment.merge(Env::prefixed(PREFIX).filter(move |key| !is_text(key.as_str())).split("__"));
    for key in TEXT {
        let variable = format!("{PREFIX}{}", key.replace('.', "__").to_uppercase());
        figment = figment.merge(Text::new(&variable, key, from_environment(&variable, key)?));
    }
    for (flag, key, value) in [
        ("--database-url", "database.url", &flags.database_url),
        ("--redis-url", "redis.url", &flags.redis_url),
        ("--bind", "server.bind", &flags.bind),
    ] {
        figment = figment.merge(Text::new(flag, key, value.clone()));
    }
    Ok(figment)
}

/// A variable's value, or the contents of the file that `VARIABLE_FILE` names, without the line's end.
fn from_environment(variable: &str, key: &str) -> Result<Option<String>, ConfigError> {
    let value = match std::env::var(variable) {
        Err(VarError::NotUnicode(_)) => return Err(ConfigError(format!("{variable} must be UTF-8"))),
        value => value.ok().filter(|value| !value.is_empty()),
    };
    if !FROM_FILES.contains(&key) {
        return Ok(value);
    }
    let file_variable = format!("{variable}_FILE");
    let Some(file) = std::env::var_os(&file_variable).filter(|file| !file.is_empty()) else { return Ok(value) };
    if value.is_some() {
        return Err(ConfigError(format!("{variable} and {file_variable} are both set: set one of them")));
    }
    let text = std::fs::read_to_string(&file)
        .map_err(|error| ConfigError(format!("{file_variable}: {}: {error}", Path::new(&file).display())))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(ConfigError(format!("{file_variable}: {} is empty", Path::new(&file).display())));
    }
    Ok(Some(text.to_owned()))
}

/// Refuses a variable that looks like a setting but has too few underscores: it would do nothing. Other variables with
/// the same prefix are ignored: Kubernetes sets `ORIVA_HUB_SERVICE_HOST` for a service named oriva-hub.
fn refuse_misspelt(defaults: &Figment) -> Result<(), ConfigError> {
    let sections: Value = defaults.extract().map_err(|error| one_line(&error))?;
    let Some(sections) = sections.as_dict() else { return Ok(()) };
    let is_setting = |name: &str| {
        let has_section = name.split_once("__").is_some_and(|(section, _)| sections.contains_key(section));
        let is_flat = || {
            let plain = |key: &str| key.replace('.', "_") == name;
            TEXT.iter().any(|key| plain(key))
                || sections.iter().any(|(section, keys)| {
                    keys.as_dict().is_some_and(|keys| keys.keys().any(|key| plain(&format!("{section}.{key}"))))
                })
        };
        has_section || is_flat()
    };
    for (variable, _) in std::env::vars_os() {
        let Some(variable) = variable.to_str() else { continue };
        let rest = variable.strip_prefix("ORIVA_HUB_").filter(|rest| !rest.starts_with('_'));
        if rest.is_some_and(|rest| is_setting(&rest.to_lowercase())) {
            let rule = "a setting's name is ORIVA_HUB__SECTION__KEY, with two underscores before each part";
            return Err(ConfigError(format!("{variable}: {rule}")));
        }
    }
    Ok(())
}

fn must_be_readable(path: &Path) -> Result<(), ConfigError> {
    std::fs::File::open(path).map(drop).map_err(|error| ConfigError(format!("--config {}: {error}", path.display())))
}

fn one_line(error: &Error) -> ConfigError {
    let key = error.path.join(".");
    let from = error
        .metadata
        .as_ref()
        .map(|metadata| match &metadata.source {
            Some(source) => format!(" (from {source})"),
            None => format!(" (from {})", metadata.name),
        })
        .unwrap_or_default();
    let text = match &error.kind {
        // It would repeat the value, which may be a secret.
        Kind::InvalidType(_, expected) if key.starts_with("auth.") || key.ends_with(".url") => {
            format!("must be {expected}")
        }
        kind => without_source(&kind.to_string()),
    };
    ConfigError(if key.is_empty() { format!("{text}{from}") } else { format!("{key}: {text}{from}") })
}

/// A parser's message in one line, without the line of the file that it repeats: that may hold a secret.
fn without_source(message: &str) -> String {
    let is_source = |line: &str| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|');
    let lines = message.lines().filter(|line| !is_source(line));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// A text value, with the name of its source.
struct Text {
    source: String,
    key: &'static str,
    value: Option<String>,
}

impl Text {
    fn new(source: &str, key: &'static str, value: Option<String>) -> Self {
        Self { source: source.to_owned(), key, value }
    }
}

impl Provider for Text {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let Some(value) = &self.value else { return Ok(Map::new()) };
        let nested = figment::util::nest(self.key, Value::from(value.clone()));
        Ok(Profile::Default.collect(nested.into_dict().unwrap_or_default()))
    }
}

/// A provider under a name of ours.
struct Named<P> {
    name: &'static str,
    inner: P,
}

impl<P: Provider> Provider for Named<P> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        self.inner.data()
    }
}
