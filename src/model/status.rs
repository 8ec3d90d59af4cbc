//! Status of monitored applications, of the connections to upstream servers, of collectors, and of the agent's process
//! and ports.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Overdue ratios (time since the last heartbeat ÷ timeout) from which on a state applies.
pub const WARNING_RATIO: f64 = 3.0;
pub const CRITICAL_RATIO: f64 = 5.0;
pub const DROPPED_RATIO: f64 = 6.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AppState {
    Ok,
    Warning,
    Critical,
    /// Removed from the table.
    Dropped,
}

impl AppState {
    pub const ALL: [Self; 4] = [Self::Ok, Self::Warning, Self::Critical, Self::Dropped];

    /// The name in capital letters, as Nagios prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Dropped => "DROPPED",
        }
    }

    pub fn from_overdue_ratio(ratio: f64) -> Self {
        match ratio {
            ratio if ratio >= DROPPED_RATIO => Self::Dropped,
            ratio if ratio >= CRITICAL_RATIO => Self::Critical,
            ratio if ratio >= WARNING_RATIO => Self::Warning,
            _ => Self::Ok,
        }
    }
}

/// A monitored application.
#[derive(Debug, Clone, PartialEq)]
pub struct AppStatus {
    pub id: String,
    pub state: AppState,
    /// Time since the last heartbeat ÷ `timeout`; `od` in the heartbeat protocol.
    pub overdue_ratio: f64,
    /// Granted with the last heartbeat.
    pub timeout: Duration,
    /// What is left of the maintenance of the application or its host.
    pub maintenance: Option<Duration>,
}

/// The applications of a host. Their number is bounded, because any local user can add some.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AppSummary {
    /// The most overdue applications, and the latest of those that were dropped.
    pub shown: Vec<AppStatus>,
    /// Number of applications that are not shown.
    pub truncated: usize,
    /// Number of all applications by state, in the order of [`AppState::ALL`].
    counts: [usize; AppState::ALL.len()],
}

impl AppSummary {
    /// Adds to the number of applications in a state.
    pub fn count(&mut self, state: AppState, number: usize) {
        self.counts[state as usize] += number;
    }

    /// Number of all applications in a state.
    pub fn number(&self, state: AppState) -> usize {
        self.counts[state as usize]
    }
}

impl From<Vec<AppStatus>> for AppSummary {
    fn from(shown: Vec<AppStatus>) -> Self {
        let mut summary = Self { shown, ..Self::default() };
        summary.shown.iter().for_each(|each| summary.counts[each.state as usize] += 1);
        summary
    }
}

/// The connection to an upstream server, hm or Core. The serialized names are those of `/snapshot` and the detailed update.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// `hm` or `core`.
    pub name: String,
    /// `connecting`, `waiting`, `connected`, `online`.
    pub state: String,
    /// When it entered this state.
    pub since_unix_seconds: u64,
    /// `None` before the first response.
    #[serde(rename = "last_answer_unix_seconds", default, skip_serializing_if = "Option::is_none")]
    pub last_response_unix_seconds: Option<u64>,
    /// Number of reports that are not delivered yet.
    pub backlog: u64,
    /// Number of reports dropped since the start, because the backlog was full or the server rejected them.
    pub dropped: u64,
    /// `None`: none was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_dropped_unix_seconds: Option<u64>,
    /// `None` if the connection never failed.
    #[serde(rename = "last_outage", default, skip_serializing_if = "Option::is_none")]
    pub last_disconnect_reason: Option<String>,
    /// Number of disconnects since the start, by the label of their reason.
    #[serde(rename = "outages", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disconnects: BTreeMap<String, u64>,
}

/// Result of one collector, as node_exporter reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorStatus {
    pub name: &'static str,
    pub success: bool,
    pub duration: Duration,
    /// `None` before the first success.
    pub last_success_unix_seconds: Option<u64>,
}

/// The agent's own process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ProcessStats {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    /// `u64::MAX` if there is no limit.
    #[serde(skip)]
    pub max_virtual_bytes: Option<u64>,
    pub threads: u64,
    pub open_files: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_files: Option<u64>,
    pub start_unix_seconds: f64,
}

/// Counters of a listening port since the agent started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortStatus {
    /// `usage`, `heartbeat`, `monitor`.
    pub name: &'static str,
    /// Open connections.
    pub connections: u64,
    /// Accepted connections.
    pub accepted: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Rejected requests by reason, as in `/snapshot`.
    pub refused: Vec<(&'static str, u64)>,
    /// Rejected requests by HTTP status code.
    #[serde(skip)]
    pub rejected_by_code: Vec<(&'static str, u64)>,
    /// WebSocket connections that the agent closed because of an error or a limit.
    #[serde(skip)]
    pub websockets_closed: u64,
}
