//! What is known of a machine: a [`RawSample`] holds the kernel's counters at one moment, a [`Snapshot`]
//! what two readings mean. Plain data; absent is `None`, units are in the names.
//!
//! No files, no clock, no threads: a reading of another machine becomes a snapshot the same way.

pub mod devices;
pub mod gpu;
pub mod host_info;
pub mod previous;
pub mod primary_gpu;
pub mod rates;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use crate::model::devices::{CollectorStatus, Devices};
use crate::model::gpu::Gpus;
use crate::model::status::AppStatus;
use crate::model::status::UpstreamStatus;
use crate::procfs::diskstats::DiskStat;
use crate::procfs::file_nr::FileNr;
use crate::procfs::loadavg::LoadAvg;
use crate::procfs::meminfo::MemInfo;
use crate::procfs::net_dev::NetDev;
use crate::procfs::pressure::Pressure;
use crate::procfs::stat::Stat;
use crate::procfs::vmstat::VmStat;

/// The kernel's counters at one moment, as they were read.
#[derive(Debug, Clone, Default)]
pub struct RawSample {
    /// When, on a clock that never jumps. Only differences mean something.
    pub monotonic: Duration,
    /// When, on the wall.
    pub unix_seconds: u64,
    /// `/proc/sys/kernel/hostname`.
    pub hostname: Option<String>,
    /// `/proc/stat`.
    pub stat: Option<Stat>,
    /// `/proc/meminfo`.
    pub meminfo: Option<MemInfo>,
    /// Sum of the zones' low watermarks, read only where meminfo has no MemAvailable.
    pub low_watermark_bytes: Option<u64>,
    /// `/proc/loadavg`.
    pub loadavg: Option<LoadAvg>,
    /// `/proc/uptime`.
    pub uptime_seconds: Option<f64>,
    /// `/proc/pressure`.
    pub pressure: Pressures,
    /// `/proc/diskstats`, every block device.
    pub diskstats: Vec<DiskStat>,
    /// `/proc/net/dev`.
    pub net_dev: Vec<NetDev>,
    /// `/proc/vmstat`.
    pub vmstat: Option<VmStat>,
    /// `/proc/sys/fs/file-nr`.
    pub file_nr: Option<FileNr>,
    /// Thermal zones, sensors and interfaces.
    pub devices: Arc<Devices>,
    /// File systems that answered.
    pub file_systems: Vec<FileSystem>,
    /// File systems that hang.
    pub file_systems_hung: usize,
    /// How it went, source by source.
    pub sources: Vec<CollectorStatus>,
    /// How long it took in all.
    pub took: Duration,
    /// GPUs, as they answered last.
    pub gpus: Arc<Gpus>,
    /// Applications that promised to beat.
    pub heartbeats: Arc<[AppStatus]>,
    /// Links to servers.
    pub links: Arc<[UpstreamStatus]>,
}

/// The three pressure files; `None` where the kernel has none (before 4.20, or switched off).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Pressures {
    pub cpu: Option<Pressure>,
    pub memory: Option<Pressure>,
    pub io: Option<Pressure>,
}

/// One thermal zone.
#[derive(Debug, Clone, PartialEq)]
pub struct Temperature {
    /// Its number in `/sys/class/thermal`.
    pub zone: u32,
    /// Its type, e.g. `x86_pkg_temp`; several zones may share one.
    pub sensor: String,
    /// Degrees Celsius.
    pub celsius: f64,
}

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Where it is mounted.
    pub mount_point: Arc<str>,
    /// What is mounted, e.g. `/dev/vda`.
    pub device: Arc<str>,
    /// Its type, e.g. `ext4`.
    pub fs_type: Arc<str>,
    /// Mounted read-only.
    pub read_only: bool,
    /// Its size.
    pub total_bytes: u64,
    /// Not in use, including what is reserved for root.
    pub free_bytes: u64,
    /// What an ordinary user can still write.
    pub available_bytes: u64,
    /// Its inodes; some types have none.
    pub files: u64,
    /// Inodes not in use.
    pub files_free: u64,
}

impl FileSystem {
    /// In use, in percent of what ordinary users could use, as df(1) says it.
    pub fn used_percent(&self) -> Option<f64> {
        let used = self.used_bytes() as f64;
        let usable = used + self.available_bytes as f64;
        (usable > 0.0).then(|| 100.0 * used / usable)
    }

    /// In use.
    pub fn used_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.free_bytes)
    }
}

/// What a machine is doing.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// When, Unix seconds.
    pub unix_seconds: u64,
    /// The machine's name.
    pub hostname: Option<String>,
    /// Processors.
    pub cpu: Option<Cpu>,
    /// Memory and swap.
    pub memory: Option<Memory>,
    /// Load averages.
    pub load: Option<LoadAvg>,
    /// Seconds since boot.
    pub uptime_seconds: Option<f64>,
    /// Time lost waiting.
    pub pressure: Pressures,
    /// Whole disks.
    pub disks: Vec<DiskRate>,
    /// Network interfaces.
    pub networks: Vec<NetRate>,
    /// File systems.
    pub file_systems: Vec<FileSystem>,
    /// Thermal zones.
    pub temperatures: Vec<Temperature>,
    /// Processes killed for want of memory since boot.
    pub oom_kills: Option<u64>,
    /// GPUs.
    pub gpus: Arc<Gpus>,
    /// Applications that promised to beat.
    pub heartbeats: Arc<[AppStatus]>,
    /// Links to servers.
    pub links: Arc<[UpstreamStatus]>,
}

/// Use of the processors since the previous reading.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cpu {
    /// All together, 0 to 100.
    pub percent: f64,
    /// Each online processor by number, 0 to 100.
    pub each_percent: Vec<(u32, f64)>,
}

/// Use of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What the kernel manages.
    pub total_bytes: u64,
    /// Total less what new programs can have; `None` on old kernels that do not give enough to tell.
    pub used_bytes: Option<u64>,
    /// Swap space.
    pub swap_total_bytes: Option<u64>,
    /// Swap space in use.
    pub swap_used_bytes: Option<u64>,
}

/// What a disk did since the previous reading, per second. `None` without a previous reading, or when a
/// counter went backwards (the device was replaced).
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct DiskRate {
    pub name: String,
    pub read_bytes_per_second: Option<f64>,
    pub written_bytes_per_second: Option<f64>,
    pub reads_per_second: Option<f64>,
    pub writes_per_second: Option<f64>,
    /// Time with at least one request in flight, 0 to 100.
    pub busy_percent: Option<f64>,
}

/// What a network interface moved since the previous reading, per second; `None` as for disks.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct NetRate {
    pub name: String,
    pub receive: Option<TrafficRate>,
    pub transmit: Option<TrafficRate>,
}

/// One direction of an interface.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct TrafficRate {
    pub bytes_per_second: f64,
    pub packets_per_second: f64,
    pub errors_per_second: f64,
    pub drops_per_second: f64,
}
