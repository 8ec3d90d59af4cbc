//! Collects one sample of this host. A file that cannot be read is logged once and its values are missing; the others are not
//! affected.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::collector::blocking_worker::BlockingWorker;
use crate::collector::disabled::DisabledCollectors;
use crate::collector::file_reader::FileReader;
use crate::collector::host_info;
use crate::collector::mount_filter::{MountFilter, apply_host_read_only};
use crate::collector::mounts::{MountTable, open_mountinfo_watch};
use crate::collector::node::COLLECTORS;
use crate::collector::status::CollectorStatuses;
use crate::collector::sysfs::{self, SysfsCollector};
use crate::config::{CollectorsConfig, Roots};
use crate::model::devices::Devices;
use crate::model::node::Measurement;
use crate::model::{FailedFileSystem, FileSystem, Pressures, RawSample};
use crate::procfs::mountinfo::Mount;
use crate::procfs::{
    ParseError, diskstats, file_nr, loadavg, meminfo, mountinfo, net_dev, pressure, stat, uptime,
    vmstat, zoneinfo,
};
use crate::sys;
use crate::sys::FsSize;
use crate::util::error::Error;
use crate::util::logger::unix_seconds;

/// How long a sample waits for sysfs, then for the collectors, then for filesystems. A later result is part of the next sample.
const COLLECT_TIMEOUT: Duration = Duration::from_millis(50);

/// How long the first sample waits for sysfs and for all collectors, so that nothing is missing at the start.
pub const FIRST_TIMEOUT: Duration = Duration::from_millis(500);

pub struct Sampler {
    roots: Roots,
    disabled: DisabledCollectors,
    files: FileReader,
    worker: BlockingWorker,
    mounts: MountTable,
    started: Instant,
    /// Wall clock of the current sample.
    unix_seconds: u64,
    statuses: CollectorStatuses,
}

/// A file below `/proc`, and the collector it belongs to.
#[derive(Clone, Copy)]
struct ProcFile {
    collector: &'static str,
    path: &'static str,
}

const fn proc_file(collector: &'static str, path: &'static str) -> ProcFile {
    ProcFile { collector, path }
}

const STAT: ProcFile = proc_file("stat", "stat");
const MEMINFO: ProcFile = proc_file("meminfo", "meminfo");

impl Sampler {
    pub fn new(
        roots: Roots,
        config: &CollectorsConfig,
        statvfs: impl Fn(&Path) -> io::Result<FsSize> + Send + Sync + 'static,
    ) -> Self {
        let disabled = config.disabled.clone();
        let mut sysfs = SysfsCollector::new(&roots.sys, &disabled);
        let enabled = COLLECTORS.iter().filter(|entry| !disabled.contains(entry.name));
        let collectors = enabled.map(|entry| entry.schedule(&roots, config)).collect();
        Self {
            roots,
            disabled,
            files: FileReader::default(),
            worker: BlockingWorker::new(statvfs, move || sysfs.collect(), collectors),
            mounts: MountTable::default(),
            started: Instant::now(),
            unix_seconds: 0,
            statuses: CollectorStatuses::default(),
        }
    }

    /// Collects the first sample. Waits for all collectors for up to `timeout`. Fails without `/proc/stat` and `/proc/meminfo`, because the agent has nothing to serve then.
    pub fn collect_first(&mut self, timeout: Duration) -> Result<RawSample, Error> {
        let hint = "path.proc must be where the machine's /proc is";
        self.parse(STAT, stat::parse).map_err(|error| error.with_hint(hint))?;
        self.parse(MEMINFO, meminfo::parse).map_err(|error| error.with_hint(hint))?;
        Ok(self.collect_sample(Some(timeout), None))
    }

    /// Collects a sample, without GPUs and the status of services. `interval` is the time until the next sample, if it is known.
    pub fn collect(&mut self, interval: Option<Duration>) -> RawSample {
        self.collect_sample(None, interval)
    }

    /// Records the result of a collector that runs elsewhere, as part of the next sample.
    pub fn record(&mut self, collector: &'static str, success: bool, duration: Duration) {
        self.statuses.record(collector, success, duration, unix_seconds());
    }

    /// `first_timeout`: how long the first sample waits.
    fn collect_sample(
        &mut self,
        first_timeout: Option<Duration>,
        interval: Option<Duration>,
    ) -> RawSample {
        let timeout = first_timeout.unwrap_or(COLLECT_TIMEOUT);
        let started = Instant::now();
        self.unix_seconds = unix_seconds();
        let mounts_known = self.refresh_mounts();
        // Runs while the other files are read.
        self.worker.start_round(self.mounts.mount_points(), interval);
        let mut sample = RawSample {
            monotonic: self.started.elapsed(),
            unix_seconds: self.unix_seconds,
            hostname: host_info::hostname(&mut self.files, &self.roots),
            stat: self.required(STAT, stat::parse),
            meminfo: self.required(MEMINFO, meminfo::parse),
            loadavg: self.optional(proc_file("loadavg", "loadavg"), loadavg::parse),
            uptime_seconds: self.optional(proc_file("uptime", "uptime"), uptime::parse),
            pressure: self.pressure(),
            diskstats: self
                .optional(proc_file("diskstats", "diskstats"), diskstats::parse)
                .unwrap_or_default(),
            net_dev: self
                .read_from_pid1_ns(("netdev", "net/dev"), "net/dev", net_dev::parse)
                .unwrap_or_default(),
            vmstat: self.optional(proc_file("vmstat", "vmstat"), vmstat::parse),
            file_nr: self.optional(proc_file("filefd", "sys/fs/file-nr"), file_nr::parse),
            ..RawSample::default()
        };
        sample.low_watermark_bytes = self.low_watermark_bytes(sample.meminfo.as_ref());
        sample.devices = self.devices(timeout);
        sample.measurements = self.measurements(timeout, first_timeout.is_some());
        (sample.file_systems, sample.file_systems_failed) =
            self.file_systems(timeout, mounts_known);
        sample.stuck_mount_points = self.worker.stuck_mount_points();
        sample.file_systems_stuck = sample.stuck_mount_points.len();
        sample.collectors = self.statuses.finish_sample();
        sample.duration = started.elapsed();
        sample
    }

    fn pressure(&mut self) -> Pressures {
        Pressures {
            cpu: self.optional(proc_file("pressure", "pressure/cpu"), pressure::parse),
            memory: self.optional(proc_file("pressure", "pressure/memory"), pressure::parse),
            io: self.optional(proc_file("pressure", "pressure/io"), pressure::parse),
            irq: self.optional(proc_file("pressure", "pressure/irq"), pressure::parse_irq),
        }
    }

    fn low_watermark_bytes(&mut self, meminfo: Option<&meminfo::MemInfo>) -> Option<u64> {
        if meminfo?.mem_available_bytes.is_some() {
            return None;
        }
        let parse = zoneinfo::parse_low_watermark_pages;
        let pages = self.optional(proc_file("zoneinfo", "zoneinfo"), parse)?;
        Some(pages.saturating_mul(sys::page_size_bytes()))
    }

    fn devices(&mut self, timeout: Duration) -> Arc<Devices> {
        let disabled = &self.disabled;
        let mut enabled = sysfs::COLLECTORS.into_iter().filter(|name| !disabled.contains(name));
        let Some(first) = enabled.next() else { return Arc::default() };
        let started = Instant::now();
        let devices = self.worker.devices(timeout).ok_or_else(|| {
            Error::system("read sensors and interfaces".to_owned(), io::ErrorKind::TimedOut.into())
        });
        let file = (first, "sysfs");
        let devices = self.statuses.record_result(file, devices, started, self.unix_seconds);
        for name in enabled {
            self.statuses.record(name, devices.is_some(), started.elapsed(), self.unix_seconds);
        }
        devices.unwrap_or_default()
    }

    fn measurements(&mut self, timeout: Duration, wait_for_all: bool) -> Vec<Arc<Measurement>> {
        let results = self.worker.collector_results(timeout, wait_for_all);
        let present = results.into_iter().filter_map(|result| {
            if result.measurement.is_some() || result.failure.is_some() {
                self.statuses.record_collector(&result);
            }
            result.measurement
        });
        present.collect()
    }

    fn file_systems(
        &mut self,
        timeout: Duration,
        mounts_known: bool,
    ) -> (Vec<FileSystem>, Vec<FailedFileSystem>) {
        let started = Instant::now();
        let file_systems = self.worker.file_systems(timeout);
        if mounts_known {
            self.statuses.record("filesystem", true, started.elapsed(), self.unix_seconds);
        }
        file_systems
    }

    /// Reads the mount table if it has changed. Returns whether it is known.
    fn refresh_mounts(&mut self) -> bool {
        if self.disabled.contains("filesystem") {
            return false;
        }
        if self.mounts.is_unchanged() {
            return true;
        }
        // Opened before the table is read, so that a change in between is noticed with the next sample.
        let watch = open_mountinfo_watch(&self.roots.proc);
        let started = Instant::now();
        let mounts = self.read_mounts();
        if let Err(Error::System { source, .. }) = &mounts
            && is_unsupported(source)
        {
            return false;
        }
        let file = ("filesystem", "mountinfo");
        let mounts = self.statuses.record_result(file, mounts, started, self.unix_seconds);
        let Some(mut mounts) = mounts else { return false };
        if mounts.iter().any(|mount| mount.read_only) {
            // Without permission to read it, the agent's own view is used.
            let pid1 = self.roots.proc.join("1/mountinfo");
            let read = self.files.parse_lines(&pid1, |at, line| {
                if let Some(pid1_mount) = mountinfo::parse_line(at, line)? {
                    apply_host_read_only(&mut mounts, &pid1_mount);
                }
                Ok(())
            });
            if let Err(error) = read {
                log::debug!("{error}");
            }
        }
        self.mounts = MountTable::new(&self.roots.root, mounts, watch);
        true
    }

    /// Reads the mount table of the host, as [`Self::read_from_pid1_ns`] does, line by line: with thousands of containers it has many
    /// megabytes.
    fn read_mounts(&mut self) -> Result<Vec<Mount>, Error> {
        let Roots { proc, root, .. } = &self.roots;
        let files = &mut self.files;
        let mut read = |path: &str| {
            let mut filter = MountFilter::new(root);
            let read = files.parse_lines(&proc.join(path), |at, line| {
                mountinfo::parse_line(at, line)?.into_iter().for_each(|mount| filter.push(mount));
                Ok(())
            });
            read.map(|()| filter.finish())
        };
        if proc != Path::new("/proc")
            && let Ok(mounts) = read("1/mountinfo")
        {
            return Ok(mounts);
        }
        read("self/mountinfo")
    }

    fn parse<T>(
        &mut self,
        file: ProcFile,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, Error> {
        self.files.parse(&self.roots.proc.join(file.path), parse)
    }

    /// Reads a file that every kernel has.
    fn required<T>(
        &mut self,
        file: ProcFile,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Option<T> {
        let started = Instant::now();
        let result = self.parse(file, parse);
        let ProcFile { collector, path } = file;
        self.statuses.record_result((collector, path), result, started, self.unix_seconds)
    }

    /// Reads a file that not every kernel has. If it does not exist, or its collector is disabled, nothing is recorded or logged.
    fn optional<T>(
        &mut self,
        file: ProcFile,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Option<T> {
        if self.disabled.contains(file.collector) {
            return None;
        }
        let started = Instant::now();
        let result = self.parse(file, parse);
        if let Err(Error::System { source, .. }) = &result
            && is_unsupported(source)
        {
            return None;
        }
        let ProcFile { collector, path } = file;
        self.statuses.record_result((collector, path), result, started, self.unix_seconds)
    }

    /// Reads a file that differs between namespaces. Files below `/proc/self` describe the namespaces of the reader. If `/proc` is
    /// that of the host, mounted into a container, those of process 1 are the host's.
    fn read_from_pid1_ns<T>(
        &mut self,
        (collector, name): (&'static str, &'static str),
        own_path: &'static str,
        mut parse: impl FnMut(&[u8]) -> Result<T, ParseError>,
    ) -> Option<T> {
        if self.disabled.contains(collector) {
            return None;
        }
        let started = Instant::now();
        if self.roots.proc != Path::new("/proc") {
            let path = self.roots.proc.join("1").join(name);
            if let Ok(value) = self.files.parse(&path, &mut parse) {
                self.statuses.record(collector, true, started.elapsed(), self.unix_seconds);
                return Some(value);
            }
        }
        self.optional(proc_file(collector, own_path), parse)
    }
}

/// The file does not exist, or pressure accounting is compiled in but switched off.
fn is_unsupported(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EOPNOTSUPP)
}
