//! One look at this machine. Each file reports its own failure, once; the others go on.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disks::Disks;
use super::files::Files;
use super::machine;
use super::mounts::worth_asking;
use crate::config::Roots;
use crate::error::Error;
use crate::logger::unix_seconds;
use crate::parse::mountinfo::Mount;
use crate::parse::{
    ParseError, decimal, diskstats, loadavg, meminfo, mountinfo, net_dev, pressure, stat, uptime,
    vmstat, zoneinfo,
};
use crate::snapshot::{FileSystem, Pressures, Reading, Temperature};
use crate::sys;

/// Reads the machine's counters.
pub struct Sampler {
    roots: Roots,
    files: Files,
    disks: Disks,
    mounts: Mounts,
    started: Instant,
    failures: BTreeMap<&'static str, String>,
}

/// The list of mounts as it was read last, and what came of it.
#[derive(Default)]
struct Mounts {
    text: Vec<u8>,
    worth_asking: Vec<Mount>,
}

impl Sampler {
    /// A sampler of the machine mounted at `roots`.
    pub fn new(roots: Roots, disks: Disks) -> Self {
        Self {
            roots,
            files: Files::default(),
            disks,
            mounts: Mounts::default(),
            started: Instant::now(),
            failures: BTreeMap::new(),
        }
    }

    /// The first look. Without `/proc/stat` and `/proc/meminfo` there is nothing to serve: an error.
    pub fn first(&mut self) -> Result<Reading, Error> {
        let hint = "path.proc must be where the machine's /proc is";
        self.stat().map_err(|error| error.with_hint(hint))?;
        self.meminfo().map_err(|error| error.with_hint(hint))?;
        Ok(self.read())
    }

    /// Another look, without GPUs and heartbeats, which others look after. What cannot be read is absent and
    /// said in the log, once.
    pub fn read(&mut self) -> Reading {
        let stat = self.stat();
        let meminfo = self.meminfo();
        let meminfo = self.note("meminfo", meminfo);
        let low_watermark_bytes = match meminfo {
            Some(info) if info.mem_available_bytes.is_none() => {
                self.optional("zoneinfo", zoneinfo::parse_low_watermark_pages)
            }
            _ => None,
        };
        Reading {
            monotonic: self.started.elapsed(),
            unix_seconds: unix_seconds(),
            hostname: machine::hostname(&mut self.files, &self.roots),
            stat: self.note("stat", stat),
            meminfo,
            low_watermark_bytes: low_watermark_bytes
                .map(|pages| pages.saturating_mul(sys::page_size_bytes())),
            loadavg: self.optional("loadavg", loadavg::parse),
            uptime_seconds: self.optional("uptime", uptime::parse),
            pressure: Pressures {
                cpu: self.optional("pressure/cpu", pressure::parse),
                memory: self.optional("pressure/memory", pressure::parse),
                io: self.optional("pressure/io", pressure::parse),
            },
            diskstats: self.optional("diskstats", diskstats::parse).unwrap_or_default(),
            net_dev: self.of_init("net/dev", "net/dev", net_dev::parse).unwrap_or_default(),
            oom_kills: self.optional("vmstat", vmstat::parse_oom_kills).flatten(),
            temperatures: self.temperatures(),
            file_systems: self.file_systems(),
            gpus: Arc::default(),
            heartbeats: Arc::default(),
            links: Arc::default(),
        }
    }

    /// Between looks: leaves a hanging file system behind. Says when to come again, if not with the next
    /// look.
    pub fn tend(&mut self) -> Option<Duration> {
        self.disks.tend()
    }

    fn stat(&mut self) -> Result<stat::Stat, Error> {
        self.files.parse(&self.roots.proc.join("stat"), stat::parse)
    }

    fn meminfo(&mut self) -> Result<meminfo::MemInfo, Error> {
        self.files.parse(&self.roots.proc.join("meminfo"), meminfo::parse)
    }

    /// A file that this kernel may not have: then it is absent, and nothing is said.
    fn optional<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Option<T> {
        let result = self.files.parse(&self.roots.proc.join(name), parse);
        match result {
            Err(Error::System { ref source, .. }) if is_absent(source) => None,
            result => self.note(name, result),
        }
    }

    /// Files below `self` speak of the reader's own namespaces. Where /proc is not our own (a container
    /// with the host's mounted elsewhere), the machine's are those of its process 1.
    fn of_init<T>(
        &mut self,
        name: &'static str,
        own: &'static str,
        mut parse: impl FnMut(&[u8]) -> Result<T, ParseError>,
    ) -> Option<T> {
        if self.roots.proc.as_os_str() != "/proc" {
            let path = self.roots.proc.join("1").join(name);
            if let Ok(found) = self.files.parse(&path, &mut parse) {
                return Some(found);
            }
        }
        self.optional(own, parse)
    }

    /// How full the file systems are. Mounts seldom change, and parsing their list costs more than all
    /// other files together: it is done when the list's text has changed.
    fn file_systems(&mut self) -> Vec<FileSystem> {
        let mut mounts = std::mem::take(&mut self.mounts);
        let root = self.roots.root.clone();
        let read = self.of_init("mountinfo", "self/mountinfo", |text| {
            if text != mounts.text {
                mounts.worth_asking = worth_asking(mountinfo::parse(text)?, &root);
                text.clone_into(&mut mounts.text);
            }
            Ok(())
        });
        if read.is_some() {
            self.mounts = mounts;
        }
        self.disks.ask(&root, &self.mounts.worth_asking)
    }

    fn temperatures(&mut self) -> Vec<Temperature> {
        let thermal = self.roots.sys.join("class/thermal");
        let zones = std::fs::read_dir(&thermal).into_iter().flatten().flatten();
        let mut zones: Vec<(u32, PathBuf)> = zones
            .filter_map(|entry| {
                let name = entry.file_name();
                let number = name.as_encoded_bytes().strip_prefix(b"thermal_zone")?;
                Some((u32::try_from(decimal(number)?).ok()?, entry.path()))
            })
            .collect();
        zones.sort();
        zones
            .into_iter()
            .filter_map(|(zone, path)| {
                // A zone that is switched off refuses to be read; that is its normal state.
                let millidegrees: i32 = self.files.line(&path.join("temp"))?.parse().ok()?;
                let celsius = f64::from(millidegrees) / 1000.0;
                let sensor = self.files.line(&path.join("type"))?;
                // Firmware without a reading says absolute zero, or less.
                (celsius > -273.0).then_some(Temperature { zone, sensor, celsius })
            })
            .collect()
    }

    /// Logs when a file begins to fail, and when it is well again.
    fn note<T>(&mut self, name: &'static str, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => {
                if self.failures.remove(name).is_some() {
                    log::info!("{name} can be read again");
                }
                Some(value)
            }
            Err(error) => {
                let message = error.to_string();
                if !self.failures.contains_key(name) {
                    log::warn!("{message}; its values are left out until it can be read");
                    self.failures.insert(name, message);
                }
                None
            }
        }
    }
}

/// No such file, or pressure accounting that is compiled in and switched off.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EOPNOTSUPP)
}
