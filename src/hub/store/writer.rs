//! The thread that writes to the database.

use std::time::{Duration, Instant};

use crate::hub::store::database::Writer;
use crate::hub::store::{
    Completed, MAX_QUEUED, OnCommit, QueuedWrite, Shared, Stored, WriteOrigin,
};
use crate::util::sync::lock;

/// Time between two runs of maintenance: moving recent records, and deleting old ones.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(600);

/// The first maintenance is early, so that a hub that is restarted often deletes what is old.
const FIRST_MAINTENANCE: Duration = Duration::from_secs(60);

/// Time between two checks for commands that time out.
const TIMEOUT_INTERVAL: Duration = Duration::from_secs(1);

/// After a failure, whether the database works again is found out after this time without a write.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// A transaction that has taken less leaves time for one of twice as many writes.
const QUICK_COMMIT: Duration = Duration::from_secs(2);

/// How many writes one transaction may have. All that have queued up during an outage would take longer than a transaction may, again and
/// again.
struct BatchLimit(usize);

impl BatchLimit {
    fn on_commit(&mut self, writes: usize, took: Duration) {
        if writes >= self.0 && took < QUICK_COMMIT {
            self.0 = (writes * 2).min(MAX_QUEUED);
        }
    }

    fn on_timeout(&mut self, writes: usize) {
        self.0 = (writes / 2).max(1);
    }
}

pub(super) struct WriterThread {
    writer: Box<dyn Writer>,
    batch_limit: BatchLimit,
    next_maintenance: Instant,
    maintenance_failed: bool,
    next_timeouts: Instant,
    next_probe: Instant,
}

impl WriterThread {
    pub(super) fn new(writer: Box<dyn Writer>) -> Self {
        let now = Instant::now();
        Self {
            writer,
            batch_limit: BatchLimit(MAX_QUEUED),
            next_maintenance: now + FIRST_MAINTENANCE,
            maintenance_failed: false,
            next_timeouts: now,
            next_probe: now,
        }
    }

    /// Commits writes until the store stops.
    pub(super) fn run(mut self, shared: &Shared, on_commit: &OnCommit) {
        loop {
            let idle = self.next_timeouts.saturating_duration_since(Instant::now());
            let Some(pending) = shared.take(idle, self.batch_limit.0) else { return };
            if !pending.is_empty() {
                self.commit(shared, pending, on_commit);
            }
            if self.next_timeouts <= Instant::now() {
                self.next_timeouts = Instant::now() + TIMEOUT_INTERVAL;
                self.time_out_commands();
                self.probe(shared);
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
        let started = Instant::now();
        let result = self.writer.commit(&mut completed);
        match &result {
            Ok(()) => self.batch_limit.on_commit(completed.len(), started.elapsed()),
            Err(_) if self.writer.has_timed_out() => self.batch_limit.on_timeout(completed.len()),
            Err(_) => {}
        }
        if result.is_err() {
            for each in &mut completed {
                (each.stored, each.commands) = (Stored::Failed, Vec::new());
            }
        }
        shared.set_result(completed.len(), result.err());
        self.next_probe = Instant::now() + PROBE_INTERVAL;
        for each in &completed {
            if let WriteOrigin::Caller(caller) = &each.pending.origin {
                // A caller that has given up does not receive it.
                let _ = caller.send(each.stored);
            }
        }
        on_commit(completed);
    }

    /// Ends the failure of an idle hub, whose writes would show that the database works again.
    fn probe(&mut self, shared: &Shared) {
        if lock(&shared.failure).is_none() || Instant::now() < self.next_probe {
            return;
        }
        self.next_probe = Instant::now() + PROBE_INTERVAL;
        if self.writer.probe() == Ok(true) {
            shared.set_result(0, None);
        }
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::hub::core::node_session::CoreNodeRequest;
    use crate::hub::store::database::{Database, Reader};
    use crate::hub::store::{HubStore, StoreError, Write};

    /// A database that needs too long for more than `max` writes.
    struct SlowWriter {
        max: usize,
        has_timed_out: bool,
        /// Gets the nodes of each batch.
        batches: Sender<Vec<String>>,
        /// Each batch waits for one.
        permits: Receiver<()>,
    }

    struct NoReaders;

    impl Database for NoReaders {
        fn open_reader(&self) -> Result<Box<dyn Reader>, StoreError> {
            Err(StoreError("none".to_owned()))
        }
    }

    impl Writer for SlowWriter {
        fn commit(&mut self, writes: &mut [Completed]) -> Result<(), StoreError> {
            let node = |completed: &Completed| match &completed.pending.write {
                Write::DeleteNode(node_id) => node_id.to_string(),
                other => panic!("{other:?}"),
            };
            self.batches.send(writes.iter().map(node).collect()).unwrap();
            self.permits.recv().unwrap();
            self.has_timed_out = writes.len() > self.max;
            match self.has_timed_out {
                true => Err(StoreError("timeout".to_owned())),
                false => Ok(()),
            }
        }

        fn has_timed_out(&self) -> bool {
            self.has_timed_out
        }

        fn probe(&mut self) -> Result<bool, StoreError> {
            Ok(false)
        }

        fn time_out_commands(&mut self) -> Result<Vec<String>, StoreError> {
            Ok(Vec::new())
        }

        fn needs_maintenance(&self) -> bool {
            false
        }

        fn maintain(&mut self) -> Result<(), StoreError> {
            Ok(())
        }

        fn import_core(
            &mut self,
            _: &mut dyn Iterator<Item = Result<(CoreNodeRequest, i64), StoreError>>,
        ) -> Result<usize, StoreError> {
            Ok(0)
        }
    }

    #[test]
    fn batches_shrink_after_a_timeout_and_grow_again() {
        let ((batches, committed), (permit, permits)) = (channel(), channel());
        let writer = SlowWriter { max: 300, has_timed_out: false, batches, permits };
        let store = HubStore::start(Box::new(NoReaders), Box::new(writer), Box::new(|_| ()));
        let store = store.unwrap();
        let add = |numbers: std::ops::Range<usize>| {
            for number in numbers {
                let write = Write::DeleteNode(number.to_string().into());
                store.add(QueuedWrite { write, origin: WriteOrigin::Hub });
            }
        };
        // What arrives during a commit is the next batch.
        add(0..1);
        let mut sizes = vec![committed.recv().unwrap().len()];
        add(1..1001);
        permit.send(()).unwrap();
        sizes.push(committed.recv().unwrap().len());
        add(1001..2001);
        let mut next = 1001;
        while next < 2001 {
            permit.send(()).unwrap();
            let batch = committed.recv().unwrap();
            let expected: Vec<_> = (next..next + batch.len()).map(|it| it.to_string()).collect();
            assert_eq!(batch, expected, "in order");
            next += batch.len();
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [1, 1000, 500, 250, 250]);
        permit.send(()).unwrap();
        drop(permit);
        store.stop();
        assert_eq!((store.counts(), store.queued()), ((501, 1500), 0));
    }

    #[test]
    fn limit_of_a_batch_grows_after_quick_commits_only() {
        let mut limit = BatchLimit(MAX_QUEUED);
        limit.on_timeout(1000);
        for (writes, took, expected) in [
            (499, 0, 500),
            (500, 2, 500),
            (500, 0, 1000),
            (1000, 0, 2000),
            (MAX_QUEUED, 0, MAX_QUEUED),
        ] {
            limit.on_commit(writes, Duration::from_secs(took));
            assert_eq!(limit.0, expected);
        }
        limit.on_timeout(1);
        assert_eq!(limit.0, 1);
    }
}
