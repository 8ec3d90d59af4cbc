//! Status of monitored applications and of the outbound connections.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// From this overdue ratio on an application is late.
pub const WARNING: f64 = 3.0;
/// From this one on it is very late.
pub const CRITICAL: f64 = 5.0;
/// At this one it is dropped.
pub const DROPPED: f64 = 6.0;

/// How late an application is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AppState {
    /// It beats as it promised, or nearly so.
    Ok,
    /// `od` ≥ 3.
    Warning,
    /// `od` ≥ 5.
    Critical,
    /// `od` ≥ 6: it is not in the table any more.
    Dropped,
}

impl AppState {
    /// Its name in capital letters, as Nagios writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Dropped => "DROPPED",
        }
    }

    pub fn of(od: f64) -> Self {
        match od {
            od if od >= DROPPED => Self::Dropped,
            od if od >= CRITICAL => Self::Critical,
            od if od >= WARNING => Self::Warning,
            _ => Self::Ok,
        }
    }
}

/// An application as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct AppStatus {
    /// Who.
    pub id: String,
    /// How late.
    pub lateness: AppState,
    /// Time since the last beat ÷ granted time.
    pub od: f64,
    /// What its last beat was granted.
    pub granted: Duration,
    /// For how long it, or the host, is in maintenance.
    pub maintenance: Option<Duration>,
}

/// What a person is shown of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// E.g. `hm`.
    pub name: String,
    /// `connecting`, `waiting`, `connected`, `online`.
    pub state: String,
    /// Since when, Unix seconds.
    pub since_unix_seconds: u64,
    /// The last answer, Unix seconds; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_answer_unix_seconds: Option<u64>,
    /// Reports that are not delivered yet.
    pub backlog: u64,
    /// Reports that were dropped since the agent started, because there were too many or the server refused them.
    pub dropped: u64,
    /// Why the link broke last; absent if it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_outage: Option<String>,
    /// How often it was tried again since the agent started, by [`Outage::kind`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outages: BTreeMap<String, u64>,
}
