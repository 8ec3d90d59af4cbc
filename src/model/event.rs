//! An event: something that happened to this node, as the event log keeps it. The serialized names are those of `/events` and of the
//! state file.

use serde::{Deserialize, Serialize};

/// A longer text is cut.
pub const MAX_TEXT_BYTES: usize = 256;
/// A longer subject is cut. Paths of mounts and ids of applications may be long.
pub const MAX_SUBJECT_BYTES: usize = 128;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventSeverity {
    #[default]
    Info,
    Warning,
    Critical,
}

impl EventSeverity {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Declares the kinds with their names in JSON and in the label of `hm_agent_events_total`.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What an event is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $name)] $kind,)*
        }

        impl EventKind {
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// The agent started, stopped or was ended.
    Agent = "agent",
    AmdGpu = "amd_gpu",
    ClockStep = "clock_step",
    CpuThermal = "cpu_thermal",
    /// The kernel oopsed or had a bug.
    Crash = "crash",
    DiskIo = "disk_io",
    /// Memory errors that a memory controller counted.
    Edac = "edac",
    FileSystem = "filesystem",
    /// The NVIDIA driver or its probe.
    GpuDriver = "gpu_driver",
    GpuState = "gpu_state",
    Heartbeat = "heartbeat",
    HungTask = "hung_task",
    Iommu = "iommu",
    /// Records of the kernel log that were lost.
    KernelLog = "kernel_log",
    /// A table or limit of the kernel is exhausted.
    Limit = "limit",
    Lockup = "lockup",
    MachineCheck = "machine_check",
    Mount = "mount",
    NetworkHardware = "network_hardware",
    NetworkLink = "network_link",
    Nfs = "nfs",
    Nvme = "nvme",
    OomKill = "oom_kill",
    Pcie = "pcie",
    Raid = "raid",
    Reboot = "reboot",
    Segfault = "segfault",
    Settings = "settings",
    Sxid = "sxid",
    Upstream = "upstream",
    Xid = "xid",
}

/// The XID with which the NVIDIA driver says that it recommends another recovery action.
pub const RECOVERY_ACTION_CHANGED: u32 = 154;

impl EventKind {
    /// Whether events of this kind, and with this code, are changes between states. A change that is undone and repeated within a minute is three events,
    /// not one that occurred twice.
    pub fn is_state_change(self, code: Option<u32>) -> bool {
        use EventKind::{Agent, GpuDriver, GpuState, Heartbeat, Mount, NetworkLink, Nfs, Upstream};
        let is_of_a_part = matches!(self, Mount | NetworkLink | Nfs | Upstream | Heartbeat);
        let is_recovery = (self, code) == (Self::Xid, Some(RECOVERY_ACTION_CHANGED));
        is_of_a_part || is_recovery || matches!(self, Agent | GpuDriver | GpuState)
    }
}

/// An event that a part of the agent reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub kind: EventKind,
    pub severity: EventSeverity,
    /// What it happened to: the PCI address of a GPU, a disk, an interface, a mount point, an application. Empty: the node.
    pub subject: String,
    /// Number of an XID or SXID.
    pub code: Option<u32>,
    /// Distinguishes events of one kind, subject and code: repetitions have the same class. Empty: they have the same text.
    pub class: &'static str,
    /// What happened, for people to read: the line of the kernel log.
    pub text: String,
    /// When it happened; `None`: now.
    pub unix_seconds: Option<u64>,
}

impl NewEvent {
    pub fn new(kind: EventKind, severity: EventSeverity, text: impl Into<String>) -> Self {
        let (subject, text) = (String::new(), text.into());
        Self { kind, severity, subject, code: None, class: "", text, unix_seconds: None }
    }

    pub fn of(self, subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), ..self }
    }
}

/// An event of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Increases with each event, also across restarts and a lost state directory.
    pub id: u64,
    pub unix_seconds: u64,
    /// When it occurred last. Later than `unix_seconds` only if `count` is more than 1.
    pub last_unix_seconds: u64,
    /// How many times it occurred.
    pub count: u64,
    pub kind: EventKind,
    pub severity: EventSeverity,
    /// As in [`NewEvent`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u32>,
    pub text: String,
}

/// How many events occurred since the agent started, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventCounts([u64; EventKind::ALL.len()]);

impl EventCounts {
    pub fn add(&mut self, kind: EventKind) {
        if let Some(count) = self.0.get_mut(kind as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// Every kind, in the order of their names.
    pub fn each(&self) -> impl Iterator<Item = (EventKind, u64)> {
        EventKind::ALL.iter().copied().zip(self.0)
    }
}

impl Default for EventCounts {
    fn default() -> Self {
        Self([0; EventKind::ALL.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_json_and_sorted() {
        let names: Vec<_> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
        assert!(names.is_sorted());
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        for severity in [EventSeverity::Info, EventSeverity::Warning, EventSeverity::Critical] {
            assert_eq!(serde_json::to_value(severity).unwrap(), severity.name());
        }
    }

    #[test]
    fn counts_each_kind() {
        let mut counts = EventCounts::default();
        counts.add(EventKind::Xid);
        counts.add(EventKind::Xid);
        let counted: Vec<_> = counts.each().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(EventKind::Xid, 2)]);
        assert_eq!(counts.each().count(), EventKind::ALL.len());
    }
}
