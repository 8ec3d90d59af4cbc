//! Plain data that features share: a [`RawSample`] holds the counters of a host at one moment, a [`Snapshot`] the rates and
//! percentages derived from two of them. No files, no clock, no threads, so samples of remote hosts are derived the same way.
//!
//! A missing value is `None`, never 0. Units are in field names.

pub mod devices;
pub mod event;
pub mod finding;
pub mod health_problem;
pub mod host_info;
pub mod kernel_log;
pub mod node;
pub mod pci_address;
pub mod previous;
pub mod primary_gpu;
pub mod rates;
pub mod status;

pub use gpu_probe::{gpu, nvidia};

use std::sync::Arc;
use std::time::Duration;

use crate::model::devices::Devices;
use crate::model::event::EventCounts;
use crate::model::gpu::Gpus;
use crate::model::kernel_log::KernelLogStatus;
use crate::model::node::Measurement;
use crate::model::status::CollectorStatus;
use crate::model::status::{AppSummary, UpstreamStatus};
use crate::procfs::diskstats::DiskStat;
use crate::procfs::file_nr::FileNr;
use crate::procfs::loadavg::LoadAvg;
use crate::procfs::meminfo::MemInfo;
use crate::procfs::net_dev::NetDev;
use crate::procfs::pressure::{Pressure, Stall};
use crate::procfs::stat::Stat;
use crate::procfs::vmstat::VmStat;

/// Counters of a host at one moment.
#[derive(Debug, Clone, Default)]
pub struct RawSample {
    /// Time on a clock that never jumps; only differences are meaningful.
    pub monotonic: Duration,
    /// Wall clock.
    pub unix_seconds: u64,
    pub hostname: Option<String>,
    pub stat: Option<Stat>,
    pub meminfo: Option<MemInfo>,
    /// Sum of the zones' low watermarks, read only if meminfo has no MemAvailable.
    pub low_watermark_bytes: Option<u64>,
    pub loadavg: Option<LoadAvg>,
    pub uptime_seconds: Option<f64>,
    pub pressure: Pressures,
    /// All block devices.
    pub diskstats: Vec<DiskStat>,
    pub net_dev: Vec<NetDev>,
    pub vmstat: Option<VmStat>,
    pub file_nr: Option<FileNr>,
    pub devices: Arc<Devices>,
    /// Up to two minutes old.
    pub measurements: Vec<Arc<Measurement>>,
    /// Filesystems that answered statvfs lately.
    pub file_systems: Vec<FileSystem>,
    /// Filesystems in which statvfs fails or is stuck.
    pub file_systems_failed: Vec<FailedFileSystem>,
    /// Number of filesystems in which statvfs is stuck.
    pub file_systems_stuck: usize,
    /// Their mount points.
    pub stuck_mount_points: Vec<Arc<str>>,
    pub collectors: Vec<CollectorStatus>,
    /// How long collecting the sample took.
    pub duration: Duration,
    pub gpus: Arc<Gpus>,
    pub heartbeats: Arc<AppSummary>,
    pub upstreams: Arc<[UpstreamStatus]>,
    pub events: EventCounts,
    pub kernel_log: KernelLogStatus,
}

/// The files of `/proc/pressure`; `None` before Linux 4.20, or if pressure accounting is switched off.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressures {
    pub cpu: Option<Pressure>,
    pub memory: Option<Pressure>,
    pub io: Option<Pressure>,
    /// Since Linux 6.1, if the kernel accounts the time of interrupts.
    pub irq: Option<Stall>,
}

/// A thermal zone.
#[derive(Debug, Clone, PartialEq)]
pub struct Temperature {
    /// Its number in `/sys/class/thermal`.
    pub zone: u32,
    /// Its type, e.g. `x86_pkg_temp`; not unique.
    pub sensor: String,
    pub celsius: f64,
}

/// A mounted filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    pub mount_point: Arc<str>,
    /// E.g. `/dev/vda` or `server:/export`.
    pub device: Arc<str>,
    /// E.g. `ext4`.
    pub fs_type: Arc<str>,
    /// Major and minor number of the device.
    pub device_number: Option<(u32, u32)>,
    pub read_only: bool,
    pub total_bytes: u64,
    /// Includes what is reserved for root.
    pub free_bytes: u64,
    /// What an ordinary user can still write.
    pub available_bytes: u64,
    /// Number of inodes; 0 for types that have none.
    pub files: u64,
    pub files_free: u64,
}

/// A mounted filesystem whose size cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedFileSystem {
    pub mount_point: Arc<str>,
    pub device: Arc<str>,
    pub fs_type: Arc<str>,
    /// As it was mounted.
    pub read_only: bool,
    /// E.g. `stale file handle`.
    pub reason: String,
}

impl FileSystem {
    /// As df(1) computes it: in percent of what ordinary users can use. `None` if that is nothing.
    pub fn used_percent(&self) -> Option<f64> {
        let used = self.used_bytes() as f64;
        let usable = used + self.available_bytes as f64;
        (usable > 0.0).then(|| 100.0 * used / usable)
    }

    pub fn used_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.free_bytes)
    }
}

/// Values of a host over the interval between two samples.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub unix_seconds: u64,
    pub hostname: Option<String>,
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub load: Option<LoadAvg>,
    /// Since boot.
    pub uptime_seconds: Option<f64>,
    pub pressure: Pressures,
    /// Whole disks, without partitions.
    pub disks: Vec<DiskRate>,
    pub networks: Vec<NetRate>,
    pub file_systems: Vec<FileSystem>,
    pub temperatures: Vec<Temperature>,
    /// Number of processes killed by the OOM killer since boot.
    pub oom_kills: Option<u64>,
    pub gpus: Arc<Gpus>,
    pub heartbeats: Arc<AppSummary>,
    pub upstreams: Arc<[UpstreamStatus]>,
}

/// CPU usage since the previous sample.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cpu {
    /// All CPUs together, 0 to 100.
    pub percent: f64,
    /// Each online CPU by number, 0 to 100.
    pub each_percent: Vec<(u32, f64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub total_bytes: u64,
    /// Total less what new programs can allocate; `None` if an old kernel does not print enough to compute it.
    pub used_bytes: Option<u64>,
    pub swap_total_bytes: Option<u64>,
    pub swap_used_bytes: Option<u64>,
}

/// Rates of a disk since the previous sample. `None` without a previous sample, or if a counter went backwards because the device
/// was replaced.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskRate {
    pub name: String,
    pub read_bytes_per_second: Option<f64>,
    pub written_bytes_per_second: Option<f64>,
    pub reads_per_second: Option<f64>,
    pub writes_per_second: Option<f64>,
    /// Time with at least one request in flight, 0 to 100.
    pub busy_percent: Option<f64>,
}

/// Rates of a network interface since the previous sample; `None` as for disks.
#[derive(Debug, Clone, PartialEq)]
pub struct NetRate {
    pub name: String,
    pub receive: Option<TrafficRate>,
    pub transmit: Option<TrafficRate>,
}

/// One direction of a network interface.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrafficRate {
    pub bytes_per_second: f64,
    pub packets_per_second: f64,
    pub errors_per_second: f64,
    pub drops_per_second: f64,
}
