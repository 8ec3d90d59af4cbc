//! GPUs of a machine. The GPU probe sends these types to the agent and the agent sends them to subscribers, so the
//! field names are those of `subscribe:detail`: units are part of the names, and a value that the GPU or its driver
//! does not provide is absent.

use serde::{Deserialize, Serialize};

use crate::amd::{Partitions, ThrottleCycles, Xgmi};
use crate::nvidia::{
    C2c, ConfidentialCompute, Fabric, NvLinkCounters, PcieErrors, Platform, Profiling,
    RecentEvents, RecoveryAction, RetiredPages, RowRemapBanks, SlowCall, SramEcc, Violations,
};

/// All GPUs of a machine and the state of the NVIDIA driver.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gpus {
    /// `None` if `gpu.source` disables GPU collection.
    pub nvidia: Option<NvidiaDriver>,
    /// Sorted by index.
    pub each: Vec<Gpu>,
}

/// The NVIDIA driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvidiaDriver {
    pub state: DriverState,
    /// Human-readable reason if `state` is an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// E.g. `550.54.14`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// The newest CUDA version that the driver supports, e.g. `12.4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda_version: Option<String>,
}

/// State of the NVIDIA driver as a whole. A problem of a single GPU is its [`Problem`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverState {
    /// The probe has not responded yet.
    #[default]
    Starting,
    /// The driver responds.
    Ok,
    /// The machine has no NVIDIA GPU.
    NoGpu,
    /// All GPUs are runtime-suspended. The agent does not resume a GPU to measure it.
    Suspended,
    /// There is a GPU, but its driver is not installed or not loaded.
    NoDriver,
    /// Kernel module and library have different versions: the driver was upgraded without a reboot.
    VersionMismatch,
    /// The driver does not respond within `gpu.timeout`.
    Hung,
    /// The probe exited unexpectedly, usually because the driver's library crashed.
    Crashed,
    /// The driver returns an error, or the probe cannot be started.
    Unavailable,
}

impl DriverState {
    /// Whether the driver works; `None` if there is no GPU or no response yet.
    pub fn is_healthy(self) -> Option<bool> {
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

/// Names of the bits nvmlClocksEventReason… in nvml.h, from bit 0, as used in [`Values::clock_event_reasons`].
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

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vendor {
    #[default]
    Nvidia,
    Amd,
    Intel,
}

/// Why a GPU has no values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// The GPU is on the PCI bus, but the driver does not list it; or the driver reports it as lost (off the bus).
    Lost,
    /// The GPU is runtime-suspended. The agent does not resume a GPU to measure it.
    Suspended,
    /// Driver calls for this GPU do not return.
    Hung,
    /// Driver calls for this GPU return errors.
    Failed,
}

/// Declares a struct whose fields are all optional and omitted from JSON when `None`.
macro_rules! of_options {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }
    };
}
pub(crate) use of_options;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// Counts from 0, in PCI order. Lost and suspended GPUs keep their index.
    pub index: u32,
    pub vendor: Vendor,
    /// Model name.
    pub name: String,
    /// E.g. `GPU-8f6d2a10-…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// As the kernel formats it: `0000:41:00.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// Why there are no values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// Human-readable form of `problem`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(flatten)]
    pub values: Values,
    /// Errors that the driver reported since the agent started, by code (NVIDIA: XID).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<Xid>,
    /// Filled in by the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_5_minutes: Option<RecentEvents>,
}

of_options! {
/// Measured values of a GPU. Percentages are 0 to 100.
Values {
/// For an APU the sum of VRAM and GTT.
    memory_total_bytes: u64,
/// Used by processes. Excludes memory reserved by the driver, except with drivers before 510.
    memory_used_bytes: u64,
    memory_free_bytes: u64,
/// Reserved by the driver and the firmware.
    memory_reserved_bytes: u64,
/// Part of the machine's memory that the firmware sets aside for an APU.
    vram_total_bytes: u64,
    vram_used_bytes: u64,
/// Part of the machine's memory that an APU may use in addition (GTT).
    gtt_total_bytes: u64,
    gtt_used_bytes: u64,
/// Share of time in which the GPU ran at least one compute kernel or graphics workload.
    utilization_percent: u32,
/// Share of time in which device memory was read or written.
    memory_utilization_percent: u32,
    encoder_utilization_percent: u32,
    decoder_utilization_percent: u32,
    temperature_celsius: i32,
    memory_temperature_celsius: i32,
/// Distance to the temperature at which the GPU slows down; 0 or less while it does.
    thermal_margin_celsius: i32,
    power_watts: f64,
/// Without averaging.
    instant_power_watts: f64,
/// Of the whole module, which has a CPU too (GH200, GB200).
    module_power_watts: f64,
    power_limit_watts: f64,
    /// Since the driver was loaded.
    energy_joules: f64,
    sm_clock_mhz: u32,
    memory_clock_mhz: u32,
/// Speed of the fastest fan.
    fan_percent: u32,
    /// 0 is the fastest, 15 the slowest.
    performance_state: u32,
/// Reasons why clocks are limited; empty if they are not.
    clock_event_reasons: Vec<String>,
/// What the driver recommends to do.
    recovery_action: RecoveryAction,
    violations: Violations,
    ecc: Ecc,
    sram_ecc: SramEcc,
    remapped_rows: RemappedRows,
    row_remap_banks: RowRemapBanks,
    retired_pages: RetiredPages,
    pcie_generation: u32,
    pcie_width: u32,
/// PCIe replays since the driver was loaded.
    pcie_replays: u64,
    pcie_errors: PcieErrors,
    nvlink: NvLink,
    nvlink_counters: NvLinkCounters,
    fabric: Fabric,
    c2c: C2c,
    profiling: Profiling,
    persistence_mode: bool,
    confidential_compute: ConfidentialCompute,
/// Whether the vGPU is licensed; false on GPUs that need no license.
    vgpu_licensed: bool,
    platform: Platform,
/// Calls that are made less often because the driver takes long for them; absent if there are none.
    slow_calls: Vec<SlowCall>,
    mig_enabled: bool,
    mig_instances: Vec<MigInstance>,
    processes: Vec<GpuProcess>,
    throttle_cycles: ThrottleCycles,
    xgmi: Xgmi,
    partitions: Partitions,
}}

of_options! {
/// ECC memory errors since the driver was loaded (volatile) and over the GPU's lifetime (aggregate).
#[derive(Copy, Eq)]
Ecc {
    volatile_corrected: u64,
    volatile_uncorrected: u64,
    aggregate_corrected: u64,
    aggregate_uncorrected: u64,
}}

/// Memory rows replaced by spare rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemappedRows {
    /// Rows remapped because of corrected errors.
    pub correctable: u32,
    /// Rows remapped because of uncorrected errors.
    pub uncorrectable: u32,
    /// A remapping takes effect at the next GPU reset.
    pub pending: bool,
    /// A remapping failed because no spare row was left.
    pub failed: bool,
}

of_options! {
/// NVLink totals over all links. Errors are counted since the driver was loaded.
#[derive(Copy, Eq)]
NvLink {
    links_up: u32,
/// Not up. Boards without a bridge and some models by design have links that are never used.
    links_down: u32,
/// Links that were up since the agent started and are not now; absent if there are none.
    links_lost: u32,
    replay_errors: u64,
    recovery_errors: u64,
    crc_flit_errors: u64,
    crc_data_errors: u64,
/// Payload per second in both directions, the mean since the last sample.
    bytes_per_second: u64,
}}

/// An instance of a GPU in MIG mode.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MigInstance {
    /// Index of the MIG device in NVML.
    pub index: u32,
    /// E.g. `NVIDIA H100 80GB HBM3 MIG 1g.10gb`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// E.g. `MIG-b4f8…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// GPU instance ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_instance: Option<u32>,
    /// Compute instance ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_instance: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    /// Of the GPU instance, so compute instances that share it have the same values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profiling: Option<Profiling>,
}

/// A process that uses a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuProcess {
    /// PID in the host's PID namespace.
    pub pid: u32,
    /// Name in `/proc/PID/comm`; absent if the agent cannot see the process, like the next ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// User name, or the ID of a user that has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// 64 hexadecimal digits; absent if the process is not in a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// UID of the Kubernetes pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    pub kind: ProcessKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    /// GPU instance that the process uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_instance: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessKind {
    #[default]
    Compute,
    Graphics,
    ComputeAndGraphics,
}

/// Errors with the same code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xid {
    /// Code in NVIDIA's catalog of XID errors.
    pub code: u64,
    pub count: u64,
    /// When the last one was read, at most one interval after it occurred.
    pub last_unix_seconds: u64,
}
