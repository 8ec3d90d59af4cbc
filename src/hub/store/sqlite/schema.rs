//! Opening the database and its schema versions. Times are Unix milliseconds.

use std::path::Path;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};

use crate::hub::store::StoreError;

/// Another process, such as `hm-hub backup`, may hold the database for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Each entry changes the schema from the version that is its index to the next. Entries never change.
const MIGRATIONS: &[&str] =
    &[include_str!("schema_1.sql"), include_str!("schema_2.sql"), include_str!("schema_3.sql")];

/// Opens the database for the writer, creates it if it does not exist, and migrates it.
pub fn open(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Takes effect only before the first table is created.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(StoreError(format!("the filesystem does not support WAL mode, only {mode}")));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    migrate(path, &connection, MIGRATIONS)?;
    Ok(connection)
}

/// Opens the database for queries beside the writer.
pub fn open_read_only(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Copies the database, also while it is in use.
pub fn back_up(source: &Connection, to: &Path) -> Result<(), StoreError> {
    const PAGES_PER_STEP: std::ffi::c_int = 1024;
    let mut target = Connection::open(to)?;
    // A snapshot: commits of the writer would start the copy again.
    let snapshot = source.unchecked_transaction()?;
    snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let backup = Backup::new(source, &mut target)?;
    backup.run_to_completion(PAGES_PER_STEP, Duration::from_millis(10), None)?;
    Ok(())
}

fn migrate(path: &Path, connection: &Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let version: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > migrations.len() {
        let newest = migrations.len();
        return Err(StoreError(format!(
            "the database has schema version {version}, and this hm-hub supports up to {newest}: it was written by a later version"
        )));
    }
    let pending = migrations.iter().enumerate().skip(version);
    if version > 0 && pending.len() > 0 {
        prepare_migration(path, connection, version)?;
    }
    for (from, migration) in pending {
        let to = from + 1;
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {migration} PRAGMA user_version={to}; COMMIT;"
        ))?;
        log::info!("store: schema version {to}");
    }
    Ok(())
}

/// Checks that twice the size of the database is free, for the backup and for the pages that the migration rewrites, and makes the
/// backup.
fn prepare_migration(
    path: &Path,
    connection: &Connection,
    version: usize,
) -> Result<(), StoreError> {
    let size = std::fs::metadata(path).map_err(|error| StoreError(error.to_string()))?.len();
    let disk = statvfs(path).map_err(|error| StoreError(error.to_string()))?;
    let available = disk.blocks_available().saturating_mul(disk.fragment_size());
    let needed = size.saturating_mul(2);
    if available < needed {
        return Err(StoreError(format!(
            "migration needs {needed} bytes beside {}, and {available} are available",
            path.display()
        )));
    }
    let mut backup = path.as_os_str().to_owned();
    backup.push(format!(".version-{version}"));
    back_up(connection, Path::new(&backup))?;
    log::info!("store: kept the database of schema version {version} as {}", backup.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::store::sqlite::temp_db::TempDb;

    #[test]
    fn opens_with_durable_commits_and_the_newest_schema() {
        let temp = TempDb::new("schema");
        let connection = open(&temp.path).unwrap();
        let number = |name: &str| -> i64 {
            connection.pragma_query_value(None, name, |row| row.get(0)).unwrap()
        };
        assert_eq!(number("synchronous"), 2, "FULL");
        assert_eq!(number("auto_vacuum"), 2, "INCREMENTAL");
        assert_eq!(number("user_version"), MIGRATIONS.len() as i64);
        drop(connection);
        open(&temp.path).unwrap();
        assert!(open_read_only(&temp.path).unwrap().execute("DELETE FROM node", []).is_err());
    }

    #[test]
    fn refuses_the_database_of_a_later_version() {
        let temp = TempDb::new("later");
        let connection = open(&temp.path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        let error = open(&temp.path).unwrap_err().to_string();
        assert!(error.contains("schema version 99"), "{error}");
    }

    #[test]
    fn migration_keeps_a_backup_and_fails_as_a_whole() {
        let temp = TempDb::new("migrate");
        let connection = open(&temp.path).unwrap();
        connection.execute("INSERT INTO node (name, first_seen) VALUES ('a', 1)", []).unwrap();
        let with = |last| [MIGRATIONS, &[last]].concat();
        let broken = with("DELETE FROM node; SELECT nonsense FROM nowhere;");
        assert!(migrate(&temp.path, &connection, &broken).is_err());
        drop(connection);
        let connection = open(&temp.path).unwrap();
        let nodes = |connection: &Connection| -> i64 {
            connection.query_row("SELECT count(*) FROM node", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(nodes(&connection), 1, "of the migration that failed");
        migrate(&temp.path, &connection, &with("DELETE FROM node;")).unwrap();
        assert_eq!(nodes(&connection), 0);
        let mut backup = temp.path.clone().into_os_string();
        backup.push(format!(".version-{}", MIGRATIONS.len()));
        assert_eq!(nodes(&Connection::open(backup).unwrap()), 1);
    }
}
