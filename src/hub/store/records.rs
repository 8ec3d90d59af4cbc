//! Arguments and results of queries.

use serde::Serialize;
use serde_json::{Value, json};

use crate::hub::core::messages::rest_time;

/// Length of a slot of means.
pub const SLOT_MS: i64 = 300_000;

/// Which reports of a node: `start` and `end` in Unix milliseconds, both included.
#[derive(Debug, Clone)]
pub struct Selection {
    pub node_id: String,
    pub start: i64,
    pub end: i64,
    pub limit: u32,
}

/// A stored report as the REST API returns it: the fields of the hm document, and the time.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct StoredReport {
    /// Unix milliseconds.
    pub timestamp: i64,
    /// The node's clock was ahead; `timestamp` is the hub's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub adjusted: bool,
    pub project: String,
    pub models: Vec<ModelName>,
    pub gpu_name: String,
    pub utilization_gpu: i64,
    pub memory_total: i64,
    pub memory_used: i64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ModelName {
    pub model: String,
}

/// Means of the reports in a slot of five minutes.
#[derive(Debug, PartialEq, Serialize)]
pub struct Mean {
    /// Start of the slot in Unix milliseconds.
    pub timestamp: i64,
    /// Number of reports.
    pub reports: i64,
    pub utilization_gpu: f64,
    pub memory_used: f64,
}

/// Metrics of all nodes.
#[derive(Debug, PartialEq, Eq)]
pub struct MetricCounts {
    pub total: u64,
    /// Times of the first and the last in Unix milliseconds.
    pub first: Option<i64>,
    pub last: Option<i64>,
    /// Since a time; the database may round it down.
    pub since: u64,
}

/// Metrics of a node in a range of time.
#[derive(Debug, PartialEq)]
pub struct MetricSummary {
    pub count: u64,
    /// Mean and maximum of usage of processors, memory and disk, and of load.
    pub means_and_maxima: [Option<f64>; 8],
}

/// A command of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCommand {
    pub command_id: String,
    pub text: String,
    pub timeout_s: u32,
}

/// A stored command with its result.
#[derive(Debug, PartialEq)]
pub struct StoredCommand {
    pub command: Value,
    pub result: Option<Value>,
}

/// The row of a command. Times are Unix milliseconds.
pub struct CommandRow {
    pub id: i64,
    pub command_id: String,
    pub text: String,
    pub node_id: String,
    pub status: String,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub completed_at: Option<i64>,
    pub result: Option<ResultRow>,
}

pub struct ResultRow {
    pub stdout: String,
    pub stderr: String,
    pub exit_code: Option<i64>,
    pub execution_time_ms: Option<i64>,
    pub created_at: i64,
}

impl From<CommandRow> for StoredCommand {
    /// As objects of the REST API.
    fn from(row: CommandRow) -> Self {
        let CommandRow { id, command_id, result, .. } = row;
        let result = result.map(|result| {
            json!({
                "id": id,
                "command_id": command_id,
                "stdout": result.stdout,
                "stderr": result.stderr,
                "exit_code": result.exit_code,
                "execution_time_ms": result.execution_time_ms,
                "created_at": rest_time(result.created_at),
            })
        });
        let command = json!({
            "id": id,
            "command_id": command_id,
            "command_text": row.text,
            "target_node_id": row.node_id,
            "status": row.status,
            "created_at": rest_time(row.created_at),
            "started_at": row.started_at.map(rest_time),
            "completed_at": row.completed_at.map(rest_time),
        });
        Self { command, result }
    }
}

/// Which commands a query returns.
#[derive(Debug, Clone, Copy, Default)]
pub struct CommandFilter<'a> {
    pub command_id: Option<&'a str>,
    pub node_id: Option<&'a str>,
    pub status: Option<&'a str>,
}

/// At most `limit` rows after the first `offset`.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    pub limit: u32,
    pub offset: u32,
}
