//! The thread that writes to the database.

use std::time::{Duration, Instant};

use crate::hub::store::database::Writer;
use crate::hub::store::{Completed, OnCommit, QueuedWrite, Shared, Stored, WriteOrigin};

/// Time between two runs of maintenance: moving recent records, and deleting old ones.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(600);

/// The first maintenance is early, so that a hub that is restarted often deletes what is old.
const FIRST_MAINTENANCE: Duration = Duration::from_secs(60);

/// Time between two checks for commands that time out.
const TIMEOUT_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct WriterThread {
    writer: Box<dyn Writer>,
    next_maintenance: Instant,
    maintenance_failed: bool,
    next_timeouts: Instant,
}

impl WriterThread {
    pub(super) fn new(writer: Box<dyn Writer>) -> Self {
        let now = Instant::now();
        Self {
            writer,
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
            // After a failure not with every commit.
            let is_early = self.writer.needs_maintenance() && !self.maintenance_failed;
            if is_early || self.next_maintenance <= Instant::now() {
                self.next_maintenance = Instant::now() + MAINTENANCE_INTERVAL;
                let result = self.writer.maintain();
                self.maintenance_failed = result.is_err();
                if let Err(error) = result {
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
        let result = self.writer.commit(&mut completed);
        if result.is_err() {
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

    fn time_out_commands(&mut self) {
        match self.writer.time_out_commands() {
            Ok(timed_out) => {
                for command_id in timed_out {
                    log::info!("command {command_id} has timed out");
                }
            }
            // The next check retries. A failing database is logged by the next commit.
            Err(error) => log::debug!("store: cannot mark commands as timed out: {error}"),
        }
    }
}
