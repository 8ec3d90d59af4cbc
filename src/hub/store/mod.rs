//! The hub's database: SQLite for one hub, PostgreSQL for several that share a fleet.
//!
//! One thread of each hub writes. Whatever arrives while a transaction commits is the next transaction, so the cost of a durable commit is
//! shared by all reports that wait for it. A report is acknowledged after its commit. When a commit fails, its reports are acknowledged as not
//! stored, nothing of them is kept, and the next transaction is tried as usual.

pub mod database;
pub mod postgres;
pub mod records;
pub mod sqlite;
mod writer;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::hub::core::node_session::CoreNodeRequest;
use crate::hub::credentials::Digest;
use crate::hub::hm::session::HmReport;
use crate::hub::nodes::info::ReceivedStatus;
use crate::hub::nodes::{LinkId, Presence};
use crate::hub::store::database::{Database, Reader, Writer};
use crate::hub::store::records::NewCommand;
use crate::hub::store::writer::WriterThread;
use crate::hub_extension::messages::AgentInfo;
use crate::util::sync::lock;

/// Reports that wait for the writer. When there are as many, event loops stop reading from nodes, so TCP holds back the senders.
/// At 10 000 reports per second this is five seconds of a stalled disk.
const MAX_QUEUED: usize = 50_000;

/// And bytes of what they contain: a command's result may have megabytes.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// A caller waits at most this long for a commit.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A node kills a command when its time is over; its result may need this long to arrive.
const RESULT_GRACE_MS: i64 = 5000;

/// How long reports and means are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub raw: Duration,
    pub means: Duration,
}

/// What is written.
#[derive(Debug, Clone)]
pub enum Write {
    Report {
        report: HmReport,
        /// `id` of the request to answer.
        request_id: u64,
    },
    Core(CoreNodeRequest),
    Command {
        node_id: Arc<str>,
        command: NewCommand,
        /// This hub sends it after the commit. Otherwise, it waits until a hub that shares the database takes it.
        is_taken: bool,
    },
    /// The description that an hm-agent has sent of its node.
    Agent {
        node_id: Arc<str>,
        agent: Arc<AgentInfo>,
        group: Option<Arc<str>>,
    },
    /// What a node has last sent before it disconnected.
    Status {
        node_id: Arc<str>,
        status: Arc<ReceivedStatus>,
    },
    /// The node has presented its credential for the first time.
    Credential {
        node_id: Arc<str>,
        digest: Digest,
        group: Option<Arc<str>>,
    },
    /// The state that `fleet.on_change` was run for.
    HookState {
        node_id: Arc<str>,
        state: Presence,
    },
    DeleteNode(Arc<str>),
}

impl Write {
    /// The node of which something is stored; `None`: one is deleted.
    pub fn node_id(&self) -> Option<&Arc<str>> {
        match self {
            Self::Report { report, .. } => Some(&report.node_id),
            Self::Core(request) => Some(&request.node_id),
            Self::Command { node_id, .. }
            | Self::Agent { node_id, .. }
            | Self::Status { node_id, .. }
            | Self::Credential { node_id, .. }
            | Self::HookState { node_id, .. } => Some(node_id),
            Self::DeleteNode(_) => None,
        }
    }

    /// Approximate size in memory.
    fn size(&self) -> usize {
        const FIXED: usize = 256;
        FIXED
            + match self {
                Self::Report { report, .. } => report.info.size(),
                Self::Core(request) => request.content.size(),
                Self::Command { command, .. } => command.text.len(),
                Self::Agent { agent, .. } => agent.gpu_models.iter().map(String::len).sum(),
                Self::Status { status, .. } => status.snapshot.len(),
                Self::Credential { .. } | Self::HookState { .. } | Self::DeleteNode(_) => 0,
            }
    }
}

/// What waits for a result.
#[derive(Debug, Clone)]
pub enum WriteOrigin {
    Link(LinkId),
    Caller(Sender<Stored>),
    /// Nothing.
    Hub,
}

#[derive(Debug, Clone)]
pub struct QueuedWrite {
    pub write: Write,
    pub origin: WriteOrigin,
}

/// Result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// A node has registered for the first time.
    Registered,
    /// Metrics have this id.
    Metrics {
        id: i64,
    },
    /// A node was removed, of which other hubs learn by this id.
    Removed {
        removal: i64,
    },
    Done,
    Failed,
}

/// A write after the attempt to commit it.
#[derive(Debug)]
pub struct Completed {
    pub pending: QueuedWrite,
    pub stored: Stored,
    /// Pending commands of a node that has registered.
    pub commands: Vec<NewCommand>,
}

/// Why the database cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError(pub String);

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Receives the writes of each transaction with their results.
pub type OnCommit = dyn Fn(Vec<Completed>) + Send + Sync;

/// Handle of the writer thread.
pub struct HubStore {
    shared: Arc<Shared>,
    database: Box<dyn Database>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Notified when the queue has changed.
    changed: Condvar,
    /// Why the last transaction failed; `None`: it was committed.
    failure: Mutex<Option<StoreError>>,
    /// Writes that were committed, and that failed.
    stored: AtomicU64,
    failed: AtomicU64,
}

#[derive(Default)]
struct Queue {
    writes: VecDeque<QueuedWrite>,
    /// Approximate size of `writes`.
    bytes: usize,
    is_stopping: bool,
}

impl HubStore {
    /// Takes over an open database and starts the writer thread.
    pub fn start(
        database: Box<dyn Database>,
        writer: Box<dyn Writer>,
        on_commit: Box<OnCommit>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            failure: Mutex::new(None),
            stored: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let context = shared.clone();
        let builder = std::thread::Builder::new().name("store".to_owned());
        let writer = builder.spawn(move || WriterThread::new(writer).run(&context, &*on_commit))?;
        Ok(Self { shared, database, writer: Mutex::new(Some(writer)) })
    }

    /// Whether further reports are accepted now. Otherwise callers stop reading from nodes.
    pub fn has_room(&self) -> bool {
        let queue = lock(&self.shared.queue);
        queue.writes.len() < MAX_QUEUED && queue.bytes < MAX_QUEUED_BYTES
    }

    /// Queues a write. It is accepted even without room: the bound is kept by callers that check [`Self::has_room`] before they read.
    pub fn add(&self, pending: QueuedWrite) {
        let mut queue = lock(&self.shared.queue);
        queue.bytes += pending.write.size();
        queue.writes.push_back(pending);
        drop(queue);
        self.shared.changed.notify_one();
    }

    /// Queues a write and waits for its commit. Returns [`Stored::Failed`] also if it takes longer than [`WRITE_TIMEOUT`]; then the write may
    /// still be committed.
    pub fn write(&self, write: Write) -> Stored {
        let (sender, receiver) = channel();
        self.add(QueuedWrite { write, origin: WriteOrigin::Caller(sender) });
        receiver.recv_timeout(WRITE_TIMEOUT).unwrap_or(Stored::Failed)
    }

    /// Why the last transaction failed; `None`: it was committed.
    pub fn failure(&self) -> Option<StoreError> {
        lock(&self.shared.failure).clone()
    }

    /// Writes since the start that were committed, and that failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.stored.load(Relaxed), self.shared.failed.load(Relaxed))
    }

    /// Writes that wait for a commit.
    pub fn queued(&self) -> usize {
        lock(&self.shared.queue).writes.len()
    }

    /// A connection for queries.
    pub fn open_reader(&self) -> Result<Box<dyn Reader>, StoreError> {
        self.database.open_reader()
    }

    /// Commits what is queued and ends the thread.
    pub fn stop(&self) {
        lock(&self.shared.queue).is_stopping = true;
        self.shared.changed.notify_one();
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer {
            // A panic has ended the process.
            let _ = writer.join();
        }
    }
}

impl Shared {
    /// Waits for writes, at most `timeout`. Takes the oldest ones, at most `max`; when the store stops, all. Returns `None` when it stops and
    /// everything has been taken.
    fn take(&self, timeout: Duration, max: usize) -> Option<Vec<QueuedWrite>> {
        let is_idle = |queue: &mut Queue| queue.writes.is_empty() && !queue.is_stopping;
        let waited = self.changed.wait_timeout_while(lock(&self.queue), timeout, is_idle);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        if queue.writes.is_empty() && queue.is_stopping {
            return None;
        }
        // At most one attempt: a service manager does not wait for many.
        let count = if queue.is_stopping { usize::MAX } else { max }.min(queue.writes.len());
        let taken: Vec<QueuedWrite> = queue.writes.drain(..count).collect();
        let size: usize = taken.iter().map(|pending| pending.write.size()).sum();
        queue.bytes = queue.bytes.saturating_sub(size);
        Some(taken)
    }

    /// Notes the result of a transaction of `count` writes.
    fn set_result(&self, count: usize, failure: Option<StoreError>) {
        let counter = if failure.is_none() { &self.stored } else { &self.failed };
        counter.fetch_add(count as u64, Relaxed);
        let text = failure.clone();
        let had_failed = std::mem::replace(&mut *lock(&self.failure), failure).is_some();
        match text {
            Some(error) if !had_failed => {
                log::error!("store: cannot commit, refusing reports: {error}");
            }
            None if had_failed => log::info!("store: recovered"),
            _ => {}
        }
    }
}
