//! What is known of the machine's GPUs. The same structures travel from the GPU probe to the agent and
//! on to subscribers, so their names are those of `subscribe:detail`: units in the names, and what a GPU
//! or its driver does not offer is absent.

use serde::{Deserialize, Serialize};

/// All GPUs of a machine, and how it stands with NVIDIA's driver.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gpus {
    /// `None` where nobody looked.
    pub nvidia: Option<Nvidia>,
    /// By index.
    pub each: Vec<Gpu>,
}

/// How it stands with NVIDIA's driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nvidia {
    /// The state.
    pub state: State,
    /// What is wrong, for a person; absent where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// E.g. `550.54.14`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// The newest CUDA that the driver supports, e.g. `12.4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda_version: Option<String>,
}

/// States of NVIDIA's driver as a whole; a single GPU's trouble is its [`Problem`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The first answer is still to come.
    #[default]
    Starting,
    /// It answers.
    Ok,
    /// There is nothing of NVIDIA in this machine.
    NoGpu,
    /// All GPUs sleep, and are not woken to be measured.
    Suspended,
    /// A GPU is there, and no driver, or one that is not loaded.
    NoDriver,
    /// The driver in the kernel and its library are of different versions: it was upgraded underneath.
    VersionMismatch,
    /// It does not answer.
    Hung,
    /// It took the probe with it.
    Crashed,
    /// It cannot be asked: it refuses, or the probe cannot run here.
    Unavailable,
}

impl State {
    /// Whether the driver could be asked; `None` where there is nothing to ask, or nothing is known yet.
    pub fn is_well(self) -> Option<bool> {
        match self {
            Self::Starting | Self::NoGpu => None,
            Self::Ok | Self::Suspended => Some(true),
            Self::NoDriver
            | Self::VersionMismatch
            | Self::Hung
            | Self::Crashed
            | Self::Unavailable => Some(false),
        }
    }
}

/// Reasons that hold clocks back, by bit: nvmlClocksEventReason… of nvml.h; what is
/// found in [`Values::clock_event_reasons`].
pub const CLOCK_EVENT_REASONS: [&str; 9] = [
    "gpu_idle",
    "applications_clocks_setting",
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "display_clock_setting",
];

/// Who made a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Vendor {
    #[default]
    Nvidia,
    Amd,
}

/// Why a GPU has no values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// It is in the machine and its driver has lost it.
    Lost,
    /// It sleeps, and is not woken to be measured.
    Suspended,
    /// Its driver does not answer when asked about it.
    Hung,
    /// Its driver refuses to speak of it.
    Failed,
}

/// Declares a structure whose fields are all left out of JSON when they are absent.
macro_rules! of_options {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        #[allow(missing_docs)]
        pub struct $name {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }
    };
}

/// One GPU.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its index, from 0: its place in the driver's list, GPUs that are lost or asleep counted in.
    pub index: u32,
    /// Who made it.
    pub vendor: Vendor,
    /// Its model.
    pub name: String,
    /// E.g. `GPU-8f6d2a10-…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Where it is, as the kernel writes it: `0000:41:00.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// Why there are no values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The same for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What it measures.
    #[serde(flatten)]
    pub values: Values,
    /// Errors that the driver reported since the agent started, by code; NVIDIA calls them XIDs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<Xid>,
}

of_options! {
/// What a GPU measures. Percentages are 0 to 100.
Values {
    memory_total_bytes: u64,
    /// By programs, without what the driver keeps for itself; drivers before 510 count that in.
    memory_used_bytes: u64,
    memory_free_bytes: u64,
    /// Kept by the driver and the firmware.
    memory_reserved_bytes: u64,
    /// Time in which a kernel ran.
    utilization_percent: u32,
    /// Time in which its memory was read or written.
    memory_utilization_percent: u32,
    encoder_utilization_percent: u32,
    decoder_utilization_percent: u32,
    temperature_celsius: i32,
    memory_temperature_celsius: i32,
    power_watts: f64,
    power_limit_watts: f64,
    /// Since the driver was loaded.
    energy_joules: f64,
    sm_clock_mhz: u32,
    memory_clock_mhz: u32,
    /// Of the fan that turns fastest.
    fan_percent: u32,
    /// 0 is the fastest, 15 the slowest.
    performance_state: u32,
    /// Why the clocks are not higher; empty where nothing holds them back.
    clock_event_reasons: Vec<String>,
    ecc: Ecc,
    remapped_rows: RemappedRows,
    pcie_generation: u32,
    pcie_width: u32,
    /// Packets sent again since the driver was loaded.
    pcie_replays: u64,
    nvlink: NvLink,
    mig_enabled: bool,
    mig_instances: Vec<MigInstance>,
    /// Those that use it.
    processes: Vec<Process>,
}}

of_options! {
/// Memory errors that were corrected or not, since the driver was loaded (volatile) and ever (aggregate).
#[derive(Copy, Eq)]
Ecc {
    volatile_corrected: u64,
    volatile_uncorrected: u64,
    aggregate_corrected: u64,
    aggregate_uncorrected: u64,
}}

/// Rows of memory that were replaced by spare ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemappedRows {
    /// After errors that were corrected.
    pub correctable: u32,
    /// After errors that were not.
    pub uncorrectable: u32,
    /// One waits for a reset of the GPU.
    pub pending: bool,
    /// There was none left.
    pub failed: bool,
}

of_options! {
/// Links to other GPUs, all together; the errors are counted since the driver was loaded.
#[derive(Copy, Eq)]
NvLink {
    links_up: u32,
    links_down: u32,
    replay_errors: u64,
    recovery_errors: u64,
    crc_flit_errors: u64,
    crc_data_errors: u64,
}}

/// A part of a GPU in MIG mode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigInstance {
    /// Its place among the GPU's instances.
    pub index: u32,
    /// E.g. `NVIDIA H100 80GB HBM3 MIG 1g.10gb`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// E.g. `MIG-b4f8…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its GPU instance's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_instance: Option<u32>,
    /// Its compute instance's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_instance: Option<u32>,
    /// Its memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
    /// Memory in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
}

/// A process that uses a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number, on the host.
    pub pid: u32,
    /// Its name, as `/proc/PID/comm` has it; absent where the agent cannot see the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it does there.
    pub kind: ProcessKind,
    /// Memory it uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    /// In which GPU instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_instance: Option<u32>,
}

/// What a process does with a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ProcessKind {
    #[default]
    Compute,
    Graphics,
    ComputeAndGraphics,
}

/// Errors of one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xid {
    /// The code, as in NVIDIA's catalogue of XID errors.
    pub code: u64,
    /// How many.
    pub count: u64,
    /// When the last one was noticed: at most an interval after it happened.
    pub last_unix_seconds: u64,
}
