//! The thread that writes to the database.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::hub::core::node_session::Content;
use crate::hub::store::core_records::{self, commands};
use crate::hub::store::hm_reports::HmReports;
use crate::hub::store::node_ids::NodeIds;
use crate::hub::store::{
    Completed, OnCommit, Origin, Pending, Retention, Shared, StoreError, Stored, Write,
};
use crate::util::logger::unix_milliseconds;

/// Time between two runs of maintenance: moving recent records into segments, and deleting old ones.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(600);

/// With more recent reports, maintenance runs earlier, so that one run does not hold up reports for long.
const MAX_RECENT: usize = 200_000;

/// Pages given back to the filesystem in one run.
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
    next_maintenance: Instant,
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
            next_maintenance: now + MAINTENANCE_INTERVAL,
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
                self.time_out_commands(on_commit);
            }
            if self.next_maintenance <= Instant::now() || self.hm.recent() >= MAX_RECENT {
                self.next_maintenance = Instant::now() + MAINTENANCE_INTERVAL;
                if let Err(error) = self.maintain() {
                    self.forget();
                    log::error!("store: maintenance failed: {error}");
                }
            }
        }
    }

    fn commit(&mut self, shared: &Shared, pending: Vec<Pending>, on_commit: &OnCommit) {
        let mut completed: Vec<Completed> = pending
            .into_iter()
            .map(|pending| Completed { pending, stored: Stored::Failed, commands: Vec::new() })
            .collect();
        let result = self.try_commit(&mut completed);
        if result.is_err() {
            self.forget();
            for each in &mut completed {
                (each.stored, each.commands) = (Stored::Failed, Vec::new());
            }
        }
        shared.set_result(completed.len(), result.err());
        for each in &completed {
            if let Origin::Caller(caller) = &each.pending.origin {
                // A caller that has given up does not receive it.
                let _ = caller.send(each.stored);
            }
        }
        on_commit(completed, Vec::new());
    }

    fn try_commit(&mut self, writes: &mut [Completed]) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        let now = now();
        for Completed { pending, stored, commands } in writes {
            let (nodes, hm) = (&mut self.nodes, &mut self.hm);
            *stored = write(&transaction, nodes, hm, &pending.write, now)?;
            if let Write::Core(request) = &pending.write
                && let Content::Register(_) = request.content
            {
                let node = nodes.get(&transaction, &request.node_id, now)?;
                *commands = commands::pending(&transaction, node)?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Drops what is cached, after a transaction was rolled back: it contains ids of rows that do not exist.
    fn forget(&mut self) {
        self.nodes = NodeIds::default();
        self.hm.forget();
    }

    fn time_out_commands(&mut self, on_commit: &OnCommit) {
        match commands::time_out(&self.connection, now(), RESULT_GRACE_MS) {
            Ok(timed_out) if timed_out.is_empty() => {}
            Ok(timed_out) => on_commit(Vec::new(), timed_out),
            // The next check repeats it. Reports show whether the database works.
            Err(error) => log::debug!("store: cannot mark commands as timed out: {error}"),
        }
    }

    fn maintain(&mut self) -> Result<(), StoreError> {
        let now = now();
        let transaction = self.connection.transaction()?;
        self.hm.compact(&transaction, now)?;
        core_records::compact(&transaction)?;
        self.hm.delete_old(&transaction, now, self.retention)?;
        core_records::delete_old(&transaction, now, self.retention)?;
        transaction.commit()?;
        let vacuum = format!("PRAGMA incremental_vacuum({VACUUM_PAGES})");
        Ok(self.connection.execute_batch(&vacuum)?)
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
        Write::HmReport { report, .. } => hm.insert(db, nodes, report, now)?,
        Write::Core(request) => return core_records::insert(db, nodes, request, now),
        Write::Command { node_id, command } => {
            let node = nodes.get(db, node_id, now)?;
            commands::create(db, node, command, now)?;
        }
        Write::DeleteNode(node_id) => {
            core_records::delete_node(db, node_id)?;
            nodes.remove(node_id);
            hm.forget();
        }
    }
    Ok(Stored::Done { metric_id: 0 })
}

fn now() -> i64 {
    i64::try_from(unix_milliseconds()).unwrap_or(i64::MAX)
}
