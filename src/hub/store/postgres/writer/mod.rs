//! The connection that writes. A batch is one transaction of a few statements, each for many rows.

mod commands;
mod core_metrics;
mod node_rows;
mod reports;

use std::cell::Cell;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_postgres::{Client, Error, Transaction};

use crate::hub::core::node_session::{Content, CoreNodeRequest};
use crate::hub::store::database::Writer;
use crate::hub::store::postgres::conflict::is_conflict;
use crate::hub::store::postgres::connection::{Connection, Statements};
use crate::hub::store::postgres::maintenance;
use crate::hub::store::postgres::partitions::{KnownPartitions, Parent};
use crate::hub::store::postgres::writer::node_rows::NodeRows;
use crate::hub::store::{
    Completed, QueuedWrite, RESULT_GRACE_MS, Retention, StoreError, Stored, Write, WriteOrigin,
};
use crate::util::logger::unix_milliseconds;

/// For a batch. An hm-agent waits 20 s for the answer to a report.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(8);
const TIMEOUT: Duration = Duration::from_secs(8);
/// Attempts at a transaction that has a conflict with one of another hub.
const MAX_ATTEMPTS: usize = 3;
/// Records that one statement imports.
const IMPORT_BATCH: usize = 10_000;

pub(super) struct PostgresWriter {
    connection: Connection,
    retention: Retention,
    partitions: KnownPartitions,
    maintenance: Option<JoinHandle<()>>,
}

/// A transaction, with what the statements of a batch share.
struct Batch<'a> {
    transaction: Transaction<'a>,
    statements: &'a mut Statements,
    now: i64,
}

/// How an attempt has ended.
enum Attempt {
    Committed,
    /// It may succeed if it is repeated.
    Conflict(Error),
}

impl PostgresWriter {
    pub(super) fn new(connection: Connection, retention: Retention) -> Self {
        Self { connection, retention, partitions: KnownPartitions::default(), maintenance: None }
    }

    fn commit_at(&mut self, now: i64, writes: &mut [Completed]) -> Result<(), StoreError> {
        let times = writes.iter().filter_map(|completed| match &completed.pending.write {
            Write::Report { report, .. } => Some((Parent::HmReport, report.sent)),
            Write::Core(CoreNodeRequest {
                content: Content::Heartbeat(_) | Content::Metrics(_),
                ..
            }) => Some((Parent::CoreMetric, now)),
            _ => None,
        });
        self.partitions.prepare(&mut self.connection, now, times);
        for attempt in 1.. {
            let is_committing = Cell::new(false);
            let work = async |client: &mut Client, statements: &mut Statements| {
                try_commit(client, statements, now, writes, &is_committing).await
            };
            let result = self.connection.run_to_commit(COMMIT_TIMEOUT, &is_committing, work)?;
            match result {
                Attempt::Committed => break,
                Attempt::Conflict(error) if attempt == MAX_ATTEMPTS => return Err(error.into()),
                Attempt::Conflict(_) => {}
            }
        }
        Ok(())
    }
}

impl Writer for PostgresWriter {
    fn commit(&mut self, writes: &mut [Completed]) -> Result<(), StoreError> {
        self.commit_at(now(), writes)
    }

    fn has_timed_out(&self) -> bool {
        self.connection.has_timed_out()
    }

    fn probe(&mut self) -> Result<bool, StoreError> {
        self.connection.run(TIMEOUT, async |client, _| {
            client.execute("UPDATE schema_version SET version = version", &[]).await?;
            Ok(true)
        })
    }

    fn time_out_commands(&mut self) -> Result<Vec<String>, StoreError> {
        self.connection
            .run(TIMEOUT, async |client, _| commands::time_out(client, RESULT_GRACE_MS).await)
    }

    fn needs_maintenance(&self) -> bool {
        false
    }

    /// Runs in a thread: old reports may be many, and new ones must not wait for them.
    fn maintain(&mut self) -> Result<(), StoreError> {
        // Another hub may have dropped some.
        self.partitions.clear();
        if self.maintenance.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Ok(());
        }
        let (url, retention) = (self.connection.url().clone(), self.retention);
        let builder = std::thread::Builder::new().name("maintenance".to_owned());
        let thread = builder.spawn(move || {
            if let Err(error) = maintenance::run(&url, retention) {
                log::error!("store: maintenance failed: {error}");
            }
        });
        let thread = thread.map_err(|error| StoreError(format!("start a thread: {error}")))?;
        self.maintenance = Some(thread);
        Ok(())
    }

    fn import_core(
        &mut self,
        requests: &mut dyn Iterator<Item = Result<(CoreNodeRequest, i64), StoreError>>,
    ) -> Result<usize, StoreError> {
        let has_metrics = self.connection.run(TIMEOUT, async |client, _| {
            client.query_one("SELECT EXISTS (SELECT 1 FROM core_metric)", &[]).await?.try_get(0)
        })?;
        if has_metrics {
            return Err(StoreError("the hub has metrics already".into()));
        }
        let (mut count, mut batch, mut batch_at) = (0, Vec::new(), 0);
        for request in requests {
            let (request, at) = request?;
            count += usize::from(matches!(request.content, Content::Metrics(_)));
            if !batch.is_empty() && (at != batch_at || batch.len() >= IMPORT_BATCH) {
                self.commit_at(batch_at, &mut batch)?;
                batch.clear();
            }
            batch_at = at;
            let pending = QueuedWrite { write: Write::Core(request), origin: WriteOrigin::Hub };
            batch.push(Completed { pending, stored: Stored::Failed, commands: Vec::new() });
        }
        self.commit_at(batch_at, &mut batch)?;
        Ok(count)
    }
}

async fn try_commit(
    client: &mut Client,
    statements: &mut Statements,
    now: i64,
    writes: &mut [Completed],
    is_committing: &Cell<bool>,
) -> Result<Attempt, Error> {
    let transaction = client.transaction().await?;
    let mut batch = Batch { transaction, statements, now };
    // What follows the deletion of a node makes it a new one.
    let is_deletion = |write: &Completed| matches!(write.pending.write, Write::DeleteNode(_));
    for part in writes.chunk_by_mut(|before, after| !is_deletion(before) && !is_deletion(after)) {
        if let Err(error) = batch.write(part).await {
            return conflict_or(error);
        }
    }
    is_committing.set(true);
    match batch.transaction.commit().await {
        Ok(()) => Ok(Attempt::Committed),
        Err(error) => conflict_or(error),
    }
}

fn conflict_or(error: Error) -> Result<Attempt, Error> {
    if is_conflict(&error) { Ok(Attempt::Conflict(error)) } else { Err(error) }
}

impl Batch<'_> {
    /// Writes a part of a batch, and sets the results.
    async fn write(&mut self, writes: &mut [Completed]) -> Result<(), Error> {
        for completed in writes.iter_mut() {
            (completed.stored, completed.commands) = (Stored::Done, Vec::new());
        }
        if let [Completed { pending, stored, .. }] = writes
            && let Write::DeleteNode(node_id) = &pending.write
        {
            *stored = node_rows::delete(self, node_id).await?;
            return Ok(());
        }
        let nodes = NodeRows::resolve(self, writes).await?;
        reports::insert(self, &nodes, writes).await?;
        core_metrics::insert(self, &nodes, writes).await?;
        node_rows::update(self, &nodes, writes).await?;
        commands::write(self, &nodes, writes).await?;
        commands::take_of_registered(self, &nodes, writes).await
    }
}

fn now() -> i64 {
    i64::try_from(unix_milliseconds()).unwrap_or(i64::MAX)
}
