//! One connection: where it goes, what it sets for itself, and what it must find at the other end.

use std::{path::Path, time::Duration};

use sqlx_pg::{Connection as _, Executor as _, PgConnection, Row as _, postgres::PgConnectOptions};
use url::Url;

use super::errors::not_connected;
use crate::store::{DEADLINE, Outage, StoreError};

/// How long the server works on one statement: less than [`DEADLINE`], so that the hub hears of the end. Without it a query
/// that nobody waits for any more goes on.
const STATEMENT: Duration = DEADLINE.saturating_sub(Duration::from_secs(1));
/// How long a connection may take to be made, TLS and login included.
const CONNECT: Duration = Duration::from_secs(5);
/// The oldest version that the SQL is written for.
const OLDEST_VERSION: i32 = 140_000;

/// Parameters of a URL that the driver knows.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];
/// Parameters of libpq whose absence changes nothing that the hub relies on.
const PASSED_OVER: [&str; 9] = [
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "gssencmode",
    "fallback_application_name",
    "sslcompression",
];
/// Parameters that name a file.
const FILES: [&str; 7] = ["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"];

/// Reads a URL, and looks whether the files that it names can be read. Does not connect.
///
/// # Errors
/// [`StoreError::Url`], which says what is wrong with it.
pub fn options(url: &str) -> Result<PgConnectOptions, StoreError> {
    let mut parsed = Url::parse(url).map_err(|error| StoreError::Url(format!("{error}{}", hint(url))))?;
    if parsed.host_str().is_some_and(|host| host.contains(',')) {
        return Err(StoreError::Url(
            "several hosts are not supported: give one address that leads to the primary".into(),
        ));
    }
    let mut kept = Vec::new();
    for (name, value) in parsed.query_pairs() {
        let name = name.into_owned();
        let is_known = PARAMETERS.contains(&name.as_str()) || name.starts_with("options[");
        if PASSED_OVER.contains(&name.as_str()) {
            continue;
        }
        if !is_known {
            // The value may be a secret (sslpassword).
            let rule = match name.as_str() {
                "target_session_attrs" | "load_balance_hosts" => "give one address that leads to the primary",
                "search_path" => "write options=-c%20search_path%3DNAME",
                _ => "remove it",
            };
            return Err(StoreError::Url(format!("the parameter {name:?} is not supported: {rule}")));
        }
        if FILES.contains(&name.as_str()) {
            std::fs::File::open(Path::new(&*value))
                .map_err(|error| StoreError::Url(format!("{name}={value}: {error}")))?;
        }
        kept.push((name, value.into_owned()));
    }
    parsed.set_query(None);
    if !kept.is_empty() {
        parsed.query_pairs_mut().extend_pairs(&kept);
    }
    let options: PgConnectOptions =
        parsed.as_str().parse().map_err(|error: sqlx_pg::Error| StoreError::Url(format!("{error}{}", hint(url))))?;
    // Not sent at the start of a connection, because PgBouncer refuses what it does not know there. No float is read.
    Ok(options.application_name("oriva-hub").extra_float_digits(None))
}

/// Where the login's part of a URL has characters that end it early.
fn hint(url: &str) -> &'static str {
    let login = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map_or("", |(login, _)| login);
    if login.contains(['/', '?', '#', '@', '[', ']', ' ', '%']) {
        " (characters such as / ? # @ % of a password are written %2F %3F %23 %40 %25)"
    } else {
        ""
    }
}

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// New transactions cannot write.
    pub is_read_only: bool,
    /// It follows another server, and may be behind.
    pub is_standby: bool,
    /// `fsync` is on: what is committed survives a power cut.
    pub syncs: bool,
}

/// Connects, as the login itself.
///
/// # Errors
/// [`StoreError::Unavailable`], also where nobody answers within [`CONNECT`].
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    match tokio::time::timeout(CONNECT, PgConnection::connect_with(options)).await {
        Ok(connected) => connected.map_err(|error| not_connected(error, options)),
        Err(_) => {
            let at = format!("{}:{}: no answer within {} s", options.get_host(), options.get_port(), CONNECT.as_secs());
            Err(StoreError::Unavailable(Outage::NoSession, Some(at.into())))
        }
    }
}

/// Connects, takes on the hub's role, and sets what the hub relies on, whatever defaults the login or the database has.
///
/// # Errors
/// [`StoreError::Unavailable`] also where the server is a standby. [`StoreError::Setup`] where the operator has to do
/// something, and [`StoreError::Outdated`] where the roles are missing.
pub(super) async fn open(options: &PgConnectOptions) -> Result<(PgConnection, Facts), StoreError> {
    let mut connection = connect(options).await?;
    // A DBA may have asked for more than `on`. Less would lose what was answered. The tenant's role is taken on later; that
    // this is allowed shows here.
    let settings = format!(
        "set role oriva_hub_tenant; set role oriva_hub_service; set client_min_messages = error; set statement_timeout = {}; set search_path = {}; set row_security = on; \
         set jit = off; set default_transaction_isolation = 'read committed'; \
         select set_config('synchronous_commit', 'on', false) \
         where current_setting('synchronous_commit') in ('off', 'local');",
        STATEMENT.as_millis(),
        search_path(options),
    );
    connection.execute(settings.as_str()).await.map_err(|error| role_error(error, options))?;
    let facts = facts(&mut connection).await?;
    if facts.is_standby {
        return Err(StoreError::Unavailable(Outage::ReadOnly, Some("it is a standby".into())));
    }
    Ok((connection, facts))
}

/// Reads what the server says of itself.
///
/// # Errors
/// [`StoreError::Setup`] where the hub cannot work with it at all.
pub(super) async fn facts(connection: &mut PgConnection) -> Result<Facts, StoreError> {
    let query = "select current_setting('transaction_read_only') = 'on', pg_is_in_recovery(), \
                 current_setting('fsync') = 'on', current_setting('server_encoding'), \
                 current_setting('server_version_num')::int, current_setting('server_version')";
    let row = sqlx_pg::query(query).fetch_one(connection).await?;
    let (encoding, version): (String, i32) = (row.try_get(3)?, row.try_get(4)?);
    if version < OLDEST_VERSION {
        let version: String = row.try_get(5)?;
        return Err(StoreError::Setup(format!("the server is PostgreSQL {version}; the hub needs 14 or newer")));
    }
    if encoding != "UTF8" {
        return Err(StoreError::Setup(format!(
            "the database's encoding is {encoding}; the hub needs UTF8: create database … encoding 'UTF8' template template0"
        )));
    }
    Ok(Facts { is_read_only: row.try_get(0)?, is_standby: row.try_get(1)?, syncs: row.try_get(2)? })
}

/// The schema of the hub's tables: `public`, unless the URL names another.
pub(super) fn search_path(options: &PgConnectOptions) -> String {
    let given = options.get_options().and_then(|options| {
        let (_, rest) = options.split_once("search_path=")?;
        rest.split_whitespace().next()
    });
    given.unwrap_or("public").to_owned()
}

/// Why a login could not take on the hub's role.
fn role_error(error: sqlx_pg::Error, options: &PgConnectOptions) -> StoreError {
    match error.as_database_error().and_then(|cause| cause.code()).as_deref() {
        // The migrations make the roles.
        Some("22023" | "42704") => StoreError::Outdated,
        Some("42501") => may_not_take_on_roles(options.get_username()),
        _ => not_connected(error, options),
    }
}

fn may_not_take_on_roles(login: &str) -> StoreError {
    StoreError::Setup(format!(
        "the login {login} may not take on the hub's roles: run `oriva-hub migrate --grant-to {login}`, or as a superuser \
         `grant oriva_hub_service, oriva_hub_tenant to {login}`"
    ))
}

/// Refuses a pooler that gives each transaction another session: the hub sets a role and settings once a session, and
/// others would get its sessions with them.
///
/// # Errors
/// [`StoreError::Setup`], or that the database does not answer.
pub(super) async fn refuse_transaction_pooling(options: &PgConnectOptions) -> Result<(), StoreError> {
    let mut first = connect(options).await?;
    let mut second = match connect(options).await {
        // There is room for one connection alone: with it, nothing can be told.
        Err(StoreError::Unavailable(Outage::TooManyConnections | Outage::NoSession, _)) => return Ok(()),
        second => second?,
    };
    let before = backend(&mut first).await?;
    second.execute("begin").await?;
    let other = backend(&mut second).await?;
    // Two clients with one session: the first one's was given to the second as soon as it had its answer.
    let is_shared = before == other || backend(&mut first).await? != before;
    second.execute("rollback").await?;
    let _ = tokio::join!(first.close(), second.close());
    if is_shared {
        return Err(StoreError::Setup(
            "a pooler in transaction mode is between the hub and the database: use pool_mode = session, or connect directly"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The server's process behind a connection. Without a prepared statement, which such a pooler may not know.
async fn backend(connection: &mut PgConnection) -> Result<i32, StoreError> {
    Ok(connection.fetch_one("select pg_backend_pid()").await?.try_get(0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_cannot_do_is_said() {
        let said = |url: &str| options(url).unwrap_err().to_string();
        assert_eq!(
            said("postgres://hub:a/b@db/hub"),
            "database.url: invalid port number (characters such as / ? # @ % of a password are written %2F %3F %23 %40 %25)"
        );
        assert_eq!(said("postgres://hub@db:x/hub"), "database.url: invalid port number");
        assert!(said("postgres://a,b/hub").contains("several hosts"));
        assert!(said("postgres://db/hub?target_session_attrs=primary").contains("leads to the primary"));
        let error = said("postgres://db/hub?sslpassword=hunter2");
        assert!(error.contains("\"sslpassword\"") && !error.contains("hunter2"), "{error}");
        let error = said("postgres://db/hub?sslmode=verify-full&sslrootcert=/no/such.pem");
        assert!(error.contains("sslrootcert=/no/such.pem: No such file"), "{error}");
        assert!(options("postgres://db/hub?connect_timeout=5&options=-c%20search_path%3Dhub").is_ok());
    }

    #[test]
    fn the_schema_is_public_unless_the_url_names_another() {
        let of = |url: &str| search_path(&options(url).unwrap());
        assert_eq!(of("postgres://db/hub"), "public");
        assert_eq!(of("postgres://db/hub?options=-c%20search_path%3Dhub"), "hub");
        assert_eq!(of("postgres://db/hub?options[search_path]=hub"), "hub");
    }
}
