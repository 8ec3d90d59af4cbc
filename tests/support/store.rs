//! The database of a hub, without the hub.

use std::sync::Arc;
use std::time::Duration;

use hm_agent::hub::core::messages::{
    CommandStarted, ReceivedMetrics, ReceivedResult, Register, unix_ms,
};
use hm_agent::hub::core::node_session::{Content, CoreNodeRequest};
use hm_agent::hub::hm::messages::MachineInfo;
use hm_agent::hub::hm::session::HmReport;
use hm_agent::hub::nodes::info::NodeInfo;
use hm_agent::hub::store::database::{Database, Reader, Writer};
use hm_agent::hub::store::postgres::PostgresDatabase;
use hm_agent::hub::store::postgres::url::PostgresUrl;
use hm_agent::hub::store::records::{CommandFilter, NewCommand, Page, Selection};
use hm_agent::hub::store::sqlite::SqliteDatabase;
use hm_agent::hub::store::{
    Completed, QueuedWrite, Retention, StoreError, Stored, Write, WriteOrigin,
};

use super::TempDir;
use super::postgres::Postgres;

const DAY: Duration = Duration::from_secs(86_400);
pub const RETENTION: Retention = Retention { raw: DAY, means: Duration::from_secs(30 * 86_400) };
pub const DAY_MS: i64 = 86_400_000;
pub const ALL: (i64, i64) = (i64::MIN, i64::MAX);

/// An open database.
pub struct Store {
    pub writer: Box<dyn Writer>,
    pub reader: Box<dyn Reader>,
}

pub fn open_sqlite() -> (TempDir, Store) {
    let directory = TempDir::new("store");
    let (database, writer) = SqliteDatabase::open(&directory.0.join("hub.db"), RETENTION).unwrap();
    let reader = database.open_reader().unwrap();
    (directory, Store { writer: Box::new(writer), reader })
}

pub fn start_postgres() -> (Postgres, Store) {
    let server = Postgres::start();
    let store = open_postgres(&server.url()).unwrap();
    (server, store)
}

pub fn open_postgres(url: &str) -> Result<Store, StoreError> {
    let opened = PostgresDatabase::open(&PostgresUrl::parse(url).unwrap(), RETENTION)?;
    Ok(Store { writer: opened.writer, reader: opened.database.open_reader()? })
}

impl Store {
    /// Commits writes in one transaction.
    pub fn commit(&mut self, writes: Vec<Write>) -> Vec<Completed> {
        self.try_commit(writes).unwrap()
    }

    pub fn try_commit(&mut self, writes: Vec<Write>) -> Result<Vec<Completed>, StoreError> {
        let mut writes: Vec<_> = writes.into_iter().map(completed).collect();
        self.writer.commit(&mut writes)?;
        Ok(writes)
    }

    pub fn times(&mut self, node_id: &str) -> Vec<i64> {
        let all = selection(node_id, ALL.0, ALL.1, 1000);
        let times = self.reader.report_times(&all).unwrap();
        let reports = self.reader.reports(&all).unwrap();
        assert_eq!(reports.iter().map(|report| report.timestamp).collect::<Vec<_>>(), times);
        times
    }

    pub fn node(&mut self, node_id: &str) -> Option<NodeInfo> {
        let nodes = self.reader.nodes().unwrap();
        nodes.into_iter().find(|(name, _)| &**name == node_id).map(|(_, info)| info)
    }

    pub fn status(&mut self, command_id: &str) -> String {
        let filter = CommandFilter { command_id: Some(command_id), ..CommandFilter::default() };
        let page = Page { limit: 1, offset: 0 };
        let (found, _) = self.reader.commands(filter, true, page).unwrap();
        found[0].command["status"].as_str().unwrap().to_owned()
    }
}

pub fn completed(write: Write) -> Completed {
    let pending = QueuedWrite { write, origin: WriteOrigin::Hub };
    Completed { pending, stored: Stored::Failed, commands: Vec::new() }
}

pub fn now() -> i64 {
    unix_ms(std::time::SystemTime::now())
}

pub fn selection(node_id: &str, start: i64, end: i64, limit: u32) -> Selection {
    Selection { node_id: node_id.into(), start, end, limit }
}

pub fn report(node_id: &str, sent: i64, memory_used: i64) -> Write {
    let info = MachineInfo {
        project: "DecentralGPT".into(),
        models: vec!["Codestral-22B-v0.1".into()],
        gpu_name: "NVIDIA RTX A5000".into(),
        utilization_gpu: 30,
        memory_total: 24_564,
        memory_used,
    };
    report_of(node_id, sent, info)
}

pub fn report_of(node_id: &str, sent: i64, info: MachineInfo) -> Write {
    let report = HmReport { node_id: node_id.into(), sent, adjusted: false, info: Arc::new(info) };
    Write::Report { report, request_id: 0 }
}

pub fn core(node_id: &str, content: Content) -> Write {
    Write::Core(CoreNodeRequest { id: "1".into(), node_id: node_id.into(), content })
}

pub fn metrics(cpu_usage: f64) -> ReceivedMetrics {
    let (memory_usage, disk_total) = (Some(1.0 / 3.0), Some(1e15));
    ReceivedMetrics { cpu_usage: Some(cpu_usage), memory_usage, disk_total, ..Default::default() }
}

pub fn registration(hostname: &str) -> Content {
    let (hostname, ip_address) = (hostname.into(), "i".into());
    Content::Register(Register { hostname, ip_address, node_id: None, os_info: None })
}

pub fn command(node_id: &str, command_id: &str, timeout_s: u32) -> Write {
    let command = NewCommand { command_id: command_id.into(), text: "ls".into(), timeout_s };
    Write::Command { node_id: node_id.into(), command, is_taken: false }
}

pub fn started(node_id: &str, command_id: &str) -> Write {
    core(node_id, Content::CommandStarted(CommandStarted { command_id: command_id.into() }))
}

pub fn result(node_id: &str, command_id: &str, exit_code: i64, stdout: &str) -> Write {
    core(
        node_id,
        Content::CommandResult(ReceivedResult {
            command_id: command_id.into(),
            exit_code: Some(exit_code),
            stdout: stdout.into(),
            stderr: String::new(),
            execution_time_ms: Some(u64::MAX),
        }),
    )
}
