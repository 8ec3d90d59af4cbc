//! What identifies a host and does not change while the agent runs.

use crate::procfs::os_release::OsRelease;

#[derive(Debug, Clone, Default)]
pub struct HostInfo {
    /// Name of the processor, or "unknown".
    pub cpu_model: String,
    /// Pretty name of the distribution.
    pub os: Option<String>,
    pub os_release: OsRelease,
    /// Kernel release, e.g. `6.1.0-13-amd64`.
    pub kernel: Option<String>,
    /// Kernel version, e.g. `#1 SMP PREEMPT_DYNAMIC Debian 6.1.55-1 (2023-09-29)`.
    pub kernel_version: Option<String>,
    /// NIS domain; `(none)` if it is not set.
    pub domain_name: Option<String>,
}
