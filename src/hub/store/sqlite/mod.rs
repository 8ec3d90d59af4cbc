//! The database of one hub: SQLite in WAL mode with `synchronous=FULL`, so that a commit is durable.

pub mod core_records;
pub mod hm_reports;
pub mod node_credentials;
pub mod node_ids;
pub mod node_statuses;
mod reader;
pub mod schema;
#[cfg(test)]
pub(crate) mod temp_db;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use crate::hub::core::node_session::{Content, CoreNodeRequest};
use crate::hub::store::database::{Database, Reader, Writer};
use crate::hub::store::sqlite::core_records::commands;
use crate::hub::store::sqlite::hm_reports::HmReports;
use crate::hub::store::sqlite::node_ids::NodeIds;
use crate::hub::store::sqlite::reader::SqliteReader;
use crate::hub::store::{Completed, RESULT_GRACE_MS, Retention, StoreError, Stored, Write};
use crate::util::logger::unix_milliseconds;

/// Segments deleted in one run: ten days of them.
const MAX_DELETED_SEGMENTS: usize = 1440;

/// Maintenance runs early when this number of records of a kind are not in a segment yet, because moving them holds up others.
const MAX_UNCOMPACTED: usize = 200_000;

/// Pages of 4 KiB given back to the filesystem in one run: 80 MB.
const VACUUM_PAGES: u32 = 20_000;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

/// The file of the database.
pub struct SqliteDatabase(PathBuf);

impl SqliteDatabase {
    /// Creates the database if it does not exist, and migrates it.
    pub fn open(path: &Path, retention: Retention) -> Result<(Self, SqliteWriter), StoreError> {
        let writer = SqliteWriter::new(schema::open(path)?, retention);
        Ok((Self(path.to_owned()), writer))
    }
}

impl Database for SqliteDatabase {
    fn open_reader(&self) -> Result<Box<dyn Reader>, StoreError> {
        Ok(Box::new(SqliteReader(schema::open_read_only(&self.0)?)))
    }
}

pub struct SqliteWriter {
    connection: Connection,
    retention: Retention,
    nodes: NodeIds,
    hm: HmReports,
    /// Core records since the last maintenance.
    core_recent: usize,
}

impl SqliteWriter {
    fn new(connection: Connection, retention: Retention) -> Self {
        Self {
            connection,
            retention,
            nodes: NodeIds::default(),
            hm: HmReports::default(),
            core_recent: 0,
        }
    }

    fn try_commit(&mut self, writes: &mut [Completed]) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        let now = now();
        for Completed { pending, stored, commands } in writes {
            let (nodes, hm) = (&mut self.nodes, &mut self.hm);
            *stored = write(&transaction, nodes, hm, &pending.write, now)?;
            self.core_recent += usize::from(matches!(stored, Stored::Metrics { .. }));
            if let Write::Core(request) = &pending.write
                && let Content::Register(_) = request.content
            {
                let node = nodes.get(&transaction, &request.node_id, now)?;
                *commands = commands::pending(&transaction, node)?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// After a transaction was rolled back, the caches may contain ids of rows that do not exist.
    fn clear_caches(&mut self) {
        self.nodes = NodeIds::default();
        self.hm.clear_caches();
    }

    /// Deletes before it moves: on a full disk, that makes room.
    fn try_maintain(&mut self) -> Result<(), StoreError> {
        let now = now();
        let before =
            |age: Duration| now.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let (raw, means) = (before(self.retention.raw), before(self.retention.means));
        for _ in 0..MAX_DELETED_SEGMENTS {
            let transaction = self.connection.transaction()?;
            let hm = self.hm.delete_old_segment(&transaction, raw)?;
            let core = core_records::delete_old_segment(&transaction, raw)?;
            transaction.commit()?;
            if !hm && !core {
                break;
            }
        }
        let transaction = self.connection.transaction()?;
        self.hm.delete_old(&transaction, raw, means)?;
        core_records::delete_old(&transaction, raw, means)?;
        transaction.commit()?;
        let transaction = self.connection.transaction()?;
        self.hm.compact(&transaction, now)?;
        core_records::compact(&transaction, now)?;
        transaction.commit()?;
        self.core_recent = 0;
        self.vacuum()
    }

    /// Gives back pages. The pragma frees one with each row that it returns.
    fn vacuum(&self) -> Result<(), StoreError> {
        let vacuum = format!("PRAGMA incremental_vacuum({VACUUM_PAGES})");
        let mut statement = self.connection.prepare(&vacuum)?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    }
}

impl Writer for SqliteWriter {
    fn commit(&mut self, writes: &mut [Completed]) -> Result<(), StoreError> {
        self.try_commit(writes).inspect_err(|_| self.clear_caches())
    }

    fn has_timed_out(&self) -> bool {
        false
    }

    /// A full disk may have room for a small commit: the next writes show whether they fit.
    fn probe(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn time_out_commands(&mut self) -> Result<Vec<String>, StoreError> {
        commands::time_out(&self.connection, now(), RESULT_GRACE_MS)
    }

    fn needs_maintenance(&self) -> bool {
        self.hm.uncompacted().max(self.core_recent) >= MAX_UNCOMPACTED
    }

    fn maintain(&mut self) -> Result<(), StoreError> {
        self.try_maintain().inspect_err(|_| self.clear_caches())
    }

    fn import_core(
        &mut self,
        requests: &mut dyn Iterator<Item = Result<(CoreNodeRequest, i64), StoreError>>,
    ) -> Result<usize, StoreError> {
        if core_records::has_metrics(&self.connection)? {
            return Err(StoreError("the hub has metrics already".into()));
        }
        let (mut nodes, mut count) = (NodeIds::default(), 0);
        let transaction = self.connection.transaction()?;
        for request in requests {
            let (request, at) = request?;
            let stored = core_records::insert(&transaction, &mut nodes, &request, at)?;
            count += usize::from(matches!(stored, Stored::Metrics { .. }));
        }
        core_records::compact(&transaction, now())?;
        transaction.commit()?;
        Ok(count)
    }
}

fn write(
    db: &Connection,
    nodes: &mut NodeIds,
    hm: &mut HmReports,
    write: &Write,
    now: i64,
) -> Result<Stored, StoreError> {
    match write {
        Write::Report { report, .. } => hm.insert(db, nodes, report, now)?,
        Write::Core(request) => return core_records::insert(db, nodes, request, now),
        Write::Command { node_id, command, .. } => {
            let node = nodes.get(db, node_id, now)?;
            commands::create(db, node, command, now)?;
        }
        Write::Agent { node_id, agent, group } => {
            let node = nodes.get(db, node_id, now)?;
            core_records::set_agent(db, node, agent, group.as_deref())?;
        }
        Write::Status { node_id, status } => {
            // A node that was forgotten meanwhile stays so.
            if let Some(node) = node_ids::find(db, node_id)? {
                node_statuses::set(db, node, status)?;
            }
        }
        Write::Credential { node_id, digest, group } => {
            let node = nodes.get(db, node_id, now)?;
            node_credentials::set(db, node, digest, group.as_deref())?;
        }
        Write::HookState { node_id, state } => {
            let node = nodes.get(db, node_id, now)?;
            core_records::set_hook_state(db, node, *state)?;
        }
        Write::DeleteNode(node_id) => {
            core_records::delete_node(db, node_id)?;
            nodes.remove(node_id);
            hm.clear_caches();
        }
    }
    Ok(Stored::Done)
}

fn now() -> i64 {
    i64::try_from(unix_milliseconds()).unwrap_or(i64::MAX)
}
