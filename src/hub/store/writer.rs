//! The thread that writes to the database.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::hub::core::node_session::Content;
use crate::hub::store::core_records::{self, commands};
use crate::hub::store::hm_reports::HmReports;
use crate::hub::store::node_credentials;
use crate::hub::store::node_ids::{self, NodeIds};
use crate::hub::store::node_statuses;
use crate::hub::store::{
    Completed, OnCommit, QueuedWrite, Retention, Shared, StoreError, Stored, Write, WriteOrigin,
};
use crate::util::logger::unix_milliseconds;

/// Time between two runs of maintenance: moving recent records into segments, and deleting old ones.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(600);

/// The first maintenance is early, so that a hub that is restarted often deletes what is old.
const FIRST_MAINTENANCE: Duration = Duration::from_secs(60);

/// Segments deleted in one run: ten days of them.
const MAX_DELETED_SEGMENTS: usize = 1440;

/// Maintenance runs early when this number of records of a kind are not in a segment yet, because moving them holds up others.
const MAX_UNCOMPACTED: usize = 200_000;

/// Pages of 4 KiB given back to the filesystem in one run: 80 MB.
const VACUUM_PAGES: u32 = 20_000;

/// Time between two checks for commands that time out.
const TIMEOUT_INTERVAL: Duration = Duration::from_secs(1);

/// A node kills a command when its time is over; its result may need this long to arrive.
const RESULT_GRACE_MS: i64 = 5000;

pub(super) struct Writer {
    connection: Connection,
    retention: Retention,
    nodes: NodeIds,
    hm: HmReports,
    /// Core records since the last maintenance.
    core_recent: usize,
    next_maintenance: Instant,
    maintenance_failed: bool,
    next_timeouts: Instant,
}

impl Writer {
    pub(super) fn new(connection: Connection, retention: Retention) -> Self {
        let now = Instant::now();
        Self {
            connection,
            retention,
            nodes: NodeIds::default(),
            hm: HmReports::default(),
            core_recent: 0,
            next_maintenance: now + FIRST_MAINTENANCE,
            maintenance_failed: false,
            next_timeouts: now,
        }
    }

    /// Commits writes until the store stops.
    pub(super) fn run(mut self, shared: &Shared, on_commit: &OnCommit) {
        loop {
            let idle = self.next_timeouts.saturating_duration_since(Instant::now());
            let Some(pending) = shared.take(idle) else { return };
            if !pending.is_empty() {
                self.commit(shared, pending, on_commit);
            }
            if self.next_timeouts <= Instant::now() {
                self.next_timeouts = Instant::now() + TIMEOUT_INTERVAL;
                self.time_out_commands();
            }
            let uncompacted = self.hm.uncompacted().max(self.core_recent);
            // After a failure not with every commit.
            let is_early = uncompacted >= MAX_UNCOMPACTED && !self.maintenance_failed;
            if is_early || self.next_maintenance <= Instant::now() {
                self.next_maintenance = Instant::now() + MAINTENANCE_INTERVAL;
                let result = self.maintain();
                self.maintenance_failed = result.is_err();
                if let Err(error) = result {
                    self.clear_caches();
                    log::error!("store: maintenance failed: {error}");
                }
            }
        }
    }

    fn commit(&mut self, shared: &Shared, pending: Vec<QueuedWrite>, on_commit: &OnCommit) {
        let mut completed: Vec<Completed> = pending
            .into_iter()
            .map(|pending| Completed { pending, stored: Stored::Failed, commands: Vec::new() })
            .collect();
        let result = self.try_commit(&mut completed);
        if result.is_err() {
            self.clear_caches();
            for each in &mut completed {
                (each.stored, each.commands) = (Stored::Failed, Vec::new());
            }
        }
        shared.set_result(completed.len(), result.err());
        for each in &completed {
            if let WriteOrigin::Caller(caller) = &each.pending.origin {
                // A caller that has given up does not receive it.
                let _ = caller.send(each.stored);
            }
        }
        on_commit(completed);
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

    fn time_out_commands(&self) {
        match commands::time_out(&self.connection, now(), RESULT_GRACE_MS) {
            Ok(timed_out) => {
                for command_id in timed_out {
                    log::info!("command {command_id} has timed out");
                }
            }
            // The next check retries. A failing database is logged by the next commit.
            Err(error) => log::debug!("store: cannot mark commands as timed out: {error}"),
        }
    }

    /// Deletes before it moves: on a full disk, that makes room.
    fn maintain(&mut self) -> Result<(), StoreError> {
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
        Write::Command { node_id, command } => {
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
