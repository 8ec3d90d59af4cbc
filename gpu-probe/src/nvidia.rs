//! Values that NVIDIA GPUs have. AMD GPUs have some of [`RetiredPages`] and [`PcieErrors`] too.

use serde::{Deserialize, Serialize};

use crate::gpu::of_options;

/// Declares an enum of the driver's numbers, which are stable. In JSON it is the name, or `{"unknown": N}`.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$doc])* $variant,)*
            /// A number of a newer driver.
            Unknown(u32),
        }

        impl $name {
            pub fn from_code(code: u32) -> Self {
                match code {
                    $($code => Self::$variant,)*
                    other => Self::Unknown(other),
                }
            }

            pub fn code(self) -> u32 {
                match self {
                    $(Self::$variant => $code,)*
                    Self::Unknown(code) => code,
                }
            }
        }
    };
}

codes! {
/// nvmlDeviceGpuRecoveryAction_t.
RecoveryAction {
    None = 0,
    GpuReset = 1,
    NodeReboot = 2,
    DrainP2p = 3,
    DrainAndReset = 4,
    RecoverImexDomain = 5,
}}

codes! {
/// NVML_GPU_FABRIC_STATE_*: registration of the GPU at the NVLink fabric.
FabricState {
    NotSupported = 0,
    NotStarted = 1,
    InProgress = 2,
    Completed = 3,
}}

codes! {
/// NVML_GPU_FABRIC_HEALTH_SUMMARY_*.
FabricHealth {
    NotSupported = 0,
    Healthy = 1,
    Unhealthy = 2,
    LimitedCapacity = 3,
}}

codes! {
/// NVML_GPU_FABRIC_HEALTH_MASK_INCORRECT_CONFIGURATION_*.
FabricConfiguration {
    NotSupported = 0,
    Correct = 1,
    IncorrectSystemGuid = 2,
    IncorrectChassisSerialNumber = 3,
    NoPartition = 4,
    InsufficientNvlinks = 5,
    IncompatibleGpuFirmware = 6,
    InvalidLocation = 7,
    InvalidGpuState = 8,
}}

of_options! {
/// Time for which clocks were reduced since the driver was loaded, by reason.
#[derive(Copy, Eq)]
Violations {
    power_nanoseconds: u64,
    thermal_nanoseconds: u64,
    sync_boost_nanoseconds: u64,
    board_limit_nanoseconds: u64,
    low_utilization_nanoseconds: u64,
    reliability_nanoseconds: u64,
/// Below the application clocks, for any reason.
    application_clocks_nanoseconds: u64,
/// Below the base clocks, for any reason.
    base_clocks_nanoseconds: u64,
    software_thermal_nanoseconds: u64,
    hardware_thermal_nanoseconds: u64,
    hardware_power_brake_nanoseconds: u64,
}}

of_options! {
/// ECC errors in the GPU's SRAM (caches, register files).
#[derive(Copy, Eq)]
SramEcc {
    volatile_corrected: u64,
    volatile_uncorrected: u64,
    aggregate_corrected: u64,
    aggregate_uncorrected: u64,
/// The GPU has more errors than the limit above which it should be replaced.
    threshold_exceeded: bool,
}}

/// Number of memory banks by how many spare rows they have left. With none, the next error cannot be repaired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowRemapBanks {
    pub max: u32,
    pub high: u32,
    pub partial: u32,
    pub low: u32,
    pub none: u32,
}

of_options! {
/// Memory pages that are not used any more because of errors. NVIDIA GPUs since Ampere remap rows instead.
#[derive(Copy, Eq)]
RetiredPages {
    single_bit: u64,
    double_bit: u64,
/// Pages are retired at the next GPU reset.
    pending: bool,
/// Pages with errors that are still in use, because they could not be retired.
    failed: u64,
}}

of_options! {
/// Errors of the PCIe link since the driver was loaded.
#[derive(Copy, Eq)]
PcieErrors {
    correctable: u64,
    naks_received: u64,
    receiver: u64,
    bad_tlp: u64,
    naks_sent: u64,
    bad_dllp: u64,
    non_fatal: u64,
    fatal: u64,
    unsupported_requests: u64,
    lcrc: u64,
/// Packets that were sent again until the link was retrained.
    replay_rollovers: u64,
/// Changes of the link from the normal state to recovery.
    recoveries: u64,
}}

of_options! {
/// Counters of NVLink 5 (Blackwell and later), over all links.
NvLinkCounters {
    transmitted_packets: u64,
    transmitted_bytes: u64,
    received_packets: u64,
    received_bytes: u64,
    malformed_packets: u64,
    buffer_overruns: u64,
    receive_errors: u64,
    remote_errors: u64,
    general_errors: u64,
    integrity_errors: u64,
    transmit_discards: u64,
    recoveries_successful: u64,
    recoveries_failed: u64,
    recoveries: u64,
    effective_errors: u64,
    symbol_errors: u64,
    effective_bit_error_ratio: f64,
    symbol_bit_error_ratio: f64,
}}

of_options! {
/// Registration of the GPU at the NVLink fabric, which CUDA needs on boards with NVSwitch.
#[derive(Eq)]
Fabric {
    state: FabricState,
/// NVML's error code, if the registration completed with an error.
    error_code: u32,
    cluster_uuid: String,
    clique_id: u32,
    health: FabricHealth,
    health_mask: u32,
    bandwidth_degraded: bool,
    route_recovering: bool,
    route_unhealthy: bool,
    access_timeout_recovering: bool,
    configuration: FabricConfiguration,
    partition_assigned: bool,
}}

of_options! {
/// Links between GPU and CPU of a superchip (GH200, GB200). Errors are summed over the links.
#[derive(Copy, Eq)]
C2c {
    links: u32,
    links_active: u32,
/// Of one link.
    max_bytes_per_second: u64,
    interrupt_errors: u64,
    replay_errors: u64,
    back_to_back_replay_errors: u64,
}}

of_options! {
/// Means over the time since the last sample, by GPM. Hopper and later GPUs have them. Ratios are 0 to 1.
Profiling {
    graphics_engine_ratio: f64,
    sm_active_ratio: f64,
    sm_occupancy_ratio: f64,
    integer_ratio: f64,
    tensor_ratio: f64,
    tensor_dfma_ratio: f64,
    tensor_hmma_ratio: f64,
    tensor_imma_ratio: f64,
    dram_ratio: f64,
    fp64_ratio: f64,
    fp32_ratio: f64,
    fp16_ratio: f64,
    pcie_transmitted_bytes_per_second: f64,
    pcie_received_bytes_per_second: f64,
    nvlink_transmitted_bytes_per_second: f64,
    nvlink_received_bytes_per_second: f64,
/// By number of the engine, without gaps.
    nvdec_ratios: Vec<f64>,
    nvjpg_ratios: Vec<f64>,
    nvofa_ratios: Vec<f64>,
}}

of_options! {
#[derive(Copy, Eq)]
ConfidentialCompute {
    enabled: bool,
/// Whether the GPUs accept work; without it CUDA does not start.
    ready: bool,
}}

of_options! {
/// Where in a rack the GPU is (GB200).
#[derive(Eq)]
Platform {
    chassis_serial_number: String,
    slot: u32,
    tray: u32,
    host: u32,
    peer_type: u32,
    module: u32,
}}

/// A group of calls that takes the driver long.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SlowCall {
    /// `fields`, `health`, `thermal_margin` or `profiling`; `profiling_and_health` while one of these
    /// has not returned.
    pub calls: String,
    /// How long it took.
    pub seconds: f64,
    /// How often it is made; absent while it has not returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_seconds: Option<f64>,
}

/// What happened within the last five minutes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentEvents {
    /// Errors by code.
    pub xids: Vec<RecentXid>,
    /// Samples in which clocks were reduced, by the names of [`crate::gpu::CLOCK_EVENT_REASONS`]; absent if no sample has
    /// reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_events: Option<Vec<RecentClockEvent>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentXid {
    pub code: u64,
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentClockEvent {
    pub reason: String,
    pub samples: u64,
}
