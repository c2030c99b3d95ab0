//! The schema: the roles that it grants to, the migrations, and whether a database has them.

use std::{borrow::Cow, sync::LazyLock, time::Duration};

use hex_literal::hex;
use sqlx_pg::{
    Connection as _, Executor as _, PgConnection,
    migrate::{Migrate as _, Migration, MigrationType, Migrator},
    postgres::PgConnectOptions,
};

use super::session;
use crate::store::{
    Cause, Outage, StoreError,
    migrations::{migration_files, version_and_description},
    new_epoch,
};

pub(in crate::store) const MIGRATION_FILES: &[(&str, &str)] = migration_files!("postgres": "0001_hub", "0002_feed", "0003_webhooks", "0004_nodes", "0005_event_data_index", "0006_retention", "0007_traces", "0008_archive_exports", "0009_audit_retention", "0010_json_as_written", "0011_event_dates", "0012_checks_and_comments", "0013_webhook_payload");
static MIGRATIONS: LazyLock<Migrator> =
    LazyLock::new(|| Migrator { migrations: MIGRATION_FILES.iter().map(migration).collect(), ..Migrator::DEFAULT });

/// SHA-384 of `0001_hub` as it was first released. That text also made the roles, which an owner without CREATEROLE cannot
/// do, even where they exist. What it did besides is the same, so it counts as the same migration.
const FIRST_0001: [u8; 48] =
    hex!("8d67b3486e5b6332eea257448a1244e104182ea3f9b6e22d1ffd71397c71464a9b5603ccf05d4d30201775275bba4c44");

/// The roles that the hub's connections take on.
const ROLES: [&str; 2] = ["oriva_hub_service", "oriva_hub_tenant"];
/// Of several that migrate at once, the others wait. The number is arbitrary.
const MIGRATION_LOCK: i64 = 0x6f72_6976_6120_6d69;
/// Roles belong to the server, and not to one database with its lock. So two databases' migrations can be in each other's way.
const ROLE_TRIES: usize = 20;
const ROLE_PAUSE: Duration = Duration::from_millis(100);

/// How long a migration waits for a lock while it holds others, which nodes wait for: less than PostgreSQL's deadlock_timeout.
const LOCK_WAIT: Duration = Duration::from_millis(500);
const LOCK_PAUSE: Duration = Duration::from_millis(500);
/// A minute.
const LOCK_TRIES: usize = 60;

fn migration((name, text): &(&'static str, &'static str)) -> Migration {
    let (version, description) = version_and_description(name);
    let mut migration =
        Migration::new(version, Cow::Owned(description), MigrationType::Simple, Cow::Borrowed(*text), false);
    if version == 1 {
        migration.checksum = Cow::Borrowed(&FIRST_0001);
    }
    migration
}

/// Makes the roles, applies all pending migrations as the login itself, which owns the schema, and gives a new store its
/// epoch. Returns the names of the migrations that it applied.
pub(super) async fn migrate(options: &PgConnectOptions) -> Result<Vec<String>, StoreError> {
    session::refuse_transaction_pooling(options).await?;
    let mut owner = session::connect(options).await?;
    let facts = session::facts(&mut owner).await?;
    if facts.is_read_only || facts.is_standby {
        return Err(StoreError::Unavailable(Outage::ReadOnly, None));
    }
    owner
        .execute(
            format!(
                "set statement_timeout = 0; set lock_timeout = 0; set search_path = {}",
                session::search_path(options)
            )
            .as_str(),
        )
        .await?;
    // It ends with the connection.
    sqlx_pg::query("select pg_advisory_lock($1)").bind(MIGRATION_LOCK).execute(&mut owner).await?;
    let login = options.get_username();
    for role in ROLES {
        make_role(&mut owner, role, login).await?;
    }
    owner.ensure_migrations_table().await.map_err(|error| not_the_owner(error.into(), login))?;
    let before = owner.list_applied_migrations().await?.len();
    // All or nothing, and all locks before any work: each statement would otherwise wait for one more lock while a node's
    // transaction waits for the last.
    let mut transaction = owner.begin().await?;
    if before < MIGRATIONS.iter().count() {
        lock_tables(&mut transaction).await.map_err(|error| not_the_owner(error, login))?;
    }
    MIGRATIONS.run_direct(&mut *transaction).await.map_err(|error| not_the_owner(error.into(), login))?;
    transaction.commit().await?;
    let names = MIGRATIONS.iter().skip(before).map(|migration| migration.description.to_string()).collect();
    owner.execute("grant select on _sqlx_migrations to oriva_hub_service").await?;
    sqlx_pg::query(
        "insert into hub_meta (key, value) values ('epoch', $1), ('identity_revision', '1') on conflict do nothing",
    )
    .bind(new_epoch())
    .execute(&mut owner)
    .await?;
    let _ = owner.close().await;
    Ok(names)
}

/// Locks the hub's tables, so that nobody else is in a transaction. Who waits for one of them while this waits for another
/// goes first: this lets go of all, and tries again.
async fn lock_tables(transaction: &mut PgConnection) -> Result<(), StoreError> {
    // Whoever appends locks `streams` before the others, so this does too.
    let tables = "select string_agg(quote_ident(name), ', ' order by name <> 'streams', name) from \
                  (select distinct table_name::text as name from information_schema.role_table_grants \
                   where grantee = 'oriva_hub_service' and table_schema = current_schema()) tables";
    let tables: Option<String> = sqlx_pg::query_scalar(tables).fetch_one(&mut *transaction).await?;
    let Some(tables) = tables else { return Ok(()) };
    let lock = format!("set local lock_timeout = '{} ms'; lock table {tables}", LOCK_WAIT.as_millis());
    for attempt in 1.. {
        transaction.execute("savepoint unlocked").await?;
        let Err(error) = transaction.execute(lock.as_str()).await else { break };
        let error = StoreError::from(error);
        transaction.execute("rollback to savepoint unlocked").await?;
        if !matches!(error, StoreError::Contended | StoreError::Unavailable(Outage::Locked, _)) || attempt == LOCK_TRIES
        {
            return Err(error);
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    transaction.execute("set local lock_timeout = 0").await?;
    Ok(())
}

/// Lets a login take on the hub's roles.
pub(super) async fn grant_to(options: &PgConnectOptions, login: &str) -> Result<(), StoreError> {
    let mut owner = session::connect(options).await?;
    let grant =
        "select format('grant oriva_hub_service, oriva_hub_tenant to %I', rolname) from pg_roles where rolname = $1";
    let grant: Option<String> = sqlx_pg::query_scalar(grant).bind(login).fetch_optional(&mut owner).await?;
    let grant =
        grant.ok_or_else(|| StoreError::Setup(format!("there is no login {login}: create role {login} login")))?;
    ask_the_server(&mut owner, &grant, || {
        format!("the login {} may not grant the hub's roles: as a superuser run `{grant}`", options.get_username())
    })
    .await?;
    let _ = owner.close().await;
    Ok(())
}

/// Makes a role if it is missing, and lets the login take it on. Both may have been done by a DBA.
async fn make_role(owner: &mut PgConnection, role: &str, login: &str) -> Result<(), StoreError> {
    let exists: bool = sqlx_pg::query_scalar("select exists (select from pg_roles where rolname = $1)")
        .bind(role)
        .fetch_one(&mut *owner)
        .await?;
    if !exists {
        let create = format!("create role {role} nologin noinherit");
        ask_the_server(owner, &create, || {
            format!(
                "the login {login} may not make the role {role}: as a superuser run `create role oriva_hub_service nologin \
                 noinherit; create role oriva_hub_tenant nologin noinherit; grant oriva_hub_service, oriva_hub_tenant to {login}`"
            )
        })
        .await?;
    }
    // Since PostgreSQL 16 who makes a role is its administrator, but may not take it on.
    let may_take_on: bool = sqlx_pg::query_scalar(
        "select case when current_setting('server_version_num')::int >= 160000 \
         then pg_has_role(current_user, $1, 'SET') else pg_has_role(current_user, $1, 'MEMBER') end",
    )
    .bind(role)
    .fetch_one(&mut *owner)
    .await?;
    if !may_take_on {
        let grant = format!("grant {role} to current_user");
        ask_the_server(owner, &grant, || {
            format!(
                "the login {login} may not take on the role {role}, which somebody else made: as a superuser, or as who made \
                 it, run `grant oriva_hub_service, oriva_hub_tenant to {login}`"
            )
        })
        .await?;
    }
    Ok(())
}

/// Where the login lacks a right, says who has it.
fn not_the_owner(error: StoreError, login: &str) -> StoreError {
    let code = |cause: &Cause| {
        let cause = cause.downcast_ref::<sqlx_pg::Error>()?.as_database_error()?.code()?;
        Some(cause.into_owned())
    };
    match &error {
        StoreError::Failed(cause) | StoreError::Migration(cause) if code(cause).as_deref() == Some("42501") => {
            StoreError::Setup(format!(
                "the login {login} does not own the schema: run `migrate` as its owner ({cause})"
            ))
        }
        _ => error,
    }
}

/// Changes the server's roles. Where the login lacks the right, `advice` says what to do.
async fn ask_the_server(
    owner: &mut PgConnection,
    statement: &str,
    advice: impl Fn() -> String,
) -> Result<(), StoreError> {
    for attempt in 1.. {
        let Err(error) = owner.execute(statement).await else { return Ok(()) };
        let code = error.as_database_error().and_then(|cause| cause.code()).unwrap_or_default().into_owned();
        match code.as_str() {
            // Another database's migration was quicker.
            "42710" | "23505" => return Ok(()),
            "42501" => return Err(StoreError::Setup(advice())),
            // "tuple concurrently updated"
            "XX000" if attempt < ROLE_TRIES => tokio::time::sleep(ROLE_PAUSE).await,
            _ => return Err(error.into()),
        }
    }
    Ok(())
}

/// Checks that the schema is the one this binary was built for. A newer one will do: migrations only add or relax.
pub(super) async fn check_schema(connection: &mut PgConnection) -> Result<(), StoreError> {
    let applied: Result<i64, sqlx_pg::Error> =
        sqlx_pg::query_scalar("select count(*) from _sqlx_migrations where success").fetch_one(connection).await;
    match applied {
        Ok(count) if count.unsigned_abs() as usize >= MIGRATIONS.iter().count() => Ok(()),
        Ok(_) => Err(StoreError::Outdated),
        Err(error) => match error.as_database_error().and_then(|cause| cause.code()).as_deref() {
            Some("42P01") => Err(StoreError::Outdated),
            Some("42501") => Err(StoreError::Setup(
                "the role oriva_hub_service has no rights on the schema: run `oriva-hub migrate` as the schema's owner"
                    .to_owned(),
            )),
            _ => Err(error.into()),
        },
    }
}
