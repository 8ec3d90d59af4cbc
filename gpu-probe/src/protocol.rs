//! Protocol between agent and GPU probe: for each line that the probe reads, it writes one line of JSON.
//!
//! Agent and probe are built together. The version detects a probe that was replaced by hand.

use serde::{Deserialize, Serialize};

use crate::gpu::{DriverState, Gpu};

/// Version of this protocol.
pub const VERSION: u32 = 1;

/// One line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeReply {
    /// [`VERSION`].
    pub version: u32,
    /// Why NVML cannot be used. All other fields are empty, and the probe exits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ProbeFailure>,
    /// Contains XIDs only. Sent when no GPU has replied yet; the full reply follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// E.g. `550.54.14`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// E.g. `12.4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda_version: Option<String>,
    /// Number of GPUs that the driver lists but denies access to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub denied: usize,
    /// Sorted by index. Process names are absent; `xids` are those since the previous line.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// NVML cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeFailure {
    pub state: DriverState,
    /// NVML's error message.
    pub message: String,
}
