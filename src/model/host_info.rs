//! What identifies a host and does not change while the agent runs.

use crate::procfs::os_release::OsRelease;

/// Identity of a host.
#[derive(Debug, Clone, Default)]
pub struct HostInfo {
    /// The processor's name, or "unknown".
    pub cpu_model: String,
    /// The distribution's name for people.
    pub os: Option<String>,
    /// What the distribution says of itself.
    pub os_release: OsRelease,
    /// The kernel's release, e.g. `6.1.0-13-amd64`.
    pub kernel: Option<String>,
    /// The kernel's version, e.g. `#1 SMP PREEMPT_DYNAMIC Debian 6.1.55-1 (2023-09-29)`.
    pub kernel_version: Option<String>,
    /// The NIS domain; `(none)` where there is none.
    pub domain_name: Option<String>,
}
