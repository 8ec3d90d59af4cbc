//! How the kernel log is read.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelLogStatus {
    pub readable: bool,
    /// Number of records that were overwritten before they were read, since the agent started.
    pub lost: u64,
}

/// What was read last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelLogPosition {
    /// Of `/proc/sys/kernel/random/boot_id`; empty: unknown.
    pub boot_id: String,
    /// The record of `/dev/kmsg` that follows. `None`: syslog(2) was read, whose lines have no numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_sequence: Option<u64>,
    /// Time of the last line.
    pub microseconds: u64,
    /// Number of lines of that time.
    #[serde(default)]
    pub lines: u64,
}
