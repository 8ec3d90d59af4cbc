//! Versions of the schema.

use std::time::Duration;

use tokio_postgres::{Client, Error};

use crate::hub::store::StoreError;
use crate::hub::store::postgres::locks;
use crate::hub::store::postgres::session::PgSession;

/// Each entry changes the schema from the version that is its index to the next. Entries never change.
const MIGRATIONS: &[&str] =
    &[concat!(include_str!("schema_1.sql"), include_str!("../../cluster/database/schema_1.sql"))];

/// The version that this hub uses.
pub const SCHEMA_VERSION: i32 = MIGRATIONS.len() as i32;

/// For a migration.
const TIMEOUT: Duration = Duration::from_secs(600);
const CHECK_TIMEOUT: Duration = Duration::from_secs(8);

/// Why the schema cannot be used.
enum Refusal {
    /// It has this version.
    Later(i32),
    /// This hub is alive, and supports up to this version.
    OlderHub(String, i32),
}

pub(super) fn migrate(session: &mut PgSession) -> Result<(), StoreError> {
    migrate_by(session, MIGRATIONS)
}

/// Changes the schema to the version that these migrations lead to.
pub fn migrate_by(session: &mut PgSession, migrations: &[&str]) -> Result<(), StoreError> {
    let result = session.run(TIMEOUT, async |client| try_migrate(client, migrations).await)?;
    let newest = migrations.len();
    result.map_err(|refusal| match refusal {
        Refusal::Later(version) => later(version, newest),
        Refusal::OlderHub(name, version) => StoreError(format!(
            "hub {name} is running and supports the schema up to version {version}; stop it before this one changes the schema to version {newest}"
        )),
    })
}

fn later(version: i32, newest: usize) -> StoreError {
    StoreError(format!(
        "the database has schema version {version}, and this hm-hub supports up to {newest}: a later version of hm-hub uses it"
    ))
}

/// Fails if the schema is later than this hub supports: it may have been changed while this hub had no session. Waits for a migration that
/// is under way.
pub fn check(session: &mut PgSession) -> Result<(), StoreError> {
    let version: i32 = session.run(CHECK_TIMEOUT, async |client| {
        let transaction = client.transaction().await?;
        let sql = "SELECT pg_advisory_xact_lock_shared($1)";
        transaction.execute(sql, &[&locks::MIGRATION]).await?;
        let row = transaction.query_one("SELECT version FROM schema_version", &[]).await?;
        transaction.commit().await?;
        row.try_get(0)
    })?;
    if version > SCHEMA_VERSION { Err(later(version, MIGRATIONS.len())) } else { Ok(()) }
}

async fn try_migrate(
    client: &mut Client,
    migrations: &[&str],
) -> Result<Result<(), Refusal>, Error> {
    let transaction = client.transaction().await?;
    transaction.execute("SET LOCAL lock_timeout = 0", &[]).await?;
    transaction.execute("SET LOCAL statement_timeout = 0", &[]).await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&locks::MIGRATION]).await?;
    transaction
        .batch_execute("CREATE TABLE IF NOT EXISTS schema_version (version integer NOT NULL)")
        .await?;
    let known = transaction.query_opt("SELECT version FROM schema_version", &[]).await?;
    let version: i32 = known.as_ref().map_or(Ok(0), |row| row.try_get(0))?;
    let newest = migrations.len() as i32;
    if version > newest {
        return Ok(Err(Refusal::Later(version)));
    }
    if version == newest {
        return Ok(Ok(()));
    }
    if version > 0 {
        // Hubs of an earlier version would work with tables that they do not know.
        let sql = "SELECT name, schema_version FROM instance
             WHERE schema_version < $1 AND renewed > now() - interval '20 s' ORDER BY name LIMIT 1";
        if let Some(row) = transaction.query_opt(sql, &[&newest]).await? {
            return Ok(Err(Refusal::OlderHub(row.try_get(0)?, row.try_get(1)?)));
        }
        // A hub that is stopped, or cut off, would go on with its sessions. It finds the new version with its next one.
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'hm-hub' AND pid <> pg_backend_pid()";
        transaction.execute(sql, &[]).await?;
    }
    for migration in &migrations[version as usize..] {
        transaction.batch_execute(migration).await?;
    }
    let sql = match version {
        0 => "INSERT INTO schema_version (version) VALUES ($1)",
        _ => "UPDATE schema_version SET version = $1",
    };
    transaction.execute(sql, &[&newest]).await?;
    transaction.commit().await?;
    log::info!("store: schema version {newest}");
    Ok(Ok(()))
}
