//! One look at this machine. Each file reports its own failure, once; the others go on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::collector::blocking_worker::BlockingWorker;
use crate::collector::cached_file::{Files, Made};
use crate::collector::host_info;
use crate::collector::mount_filter::{unshield, worth_asking};
use crate::collector::mounts::{Place, Places};
use crate::collector::status::Ledger;
use crate::collector::sysfs::SysfsCollector;
use crate::config::Roots;
use crate::limits;
use crate::model::devices::Devices;
use crate::model::{FileSystem, Pressures, RawSample};
use crate::procfs::{
    ParseError, diskstats, file_nr, loadavg, meminfo, mountinfo, net_dev, pressure, stat, uptime,
    vmstat, zoneinfo,
};
use crate::sys;
use crate::sys::FsSize;
use crate::util::error::Error;
use crate::util::logger::unix_seconds;

/// Reads the machine's counters.
pub struct Sampler {
    roots: Roots,
    files: Files,
    aside: BlockingWorker,
    mounts: Mounts,
    started: Instant,
    /// Wall clock of this look, Unix seconds.
    now: u64,
    /// The file that is read, in memory that stays.
    path: PathBuf,
    ledger: Ledger,
}

/// The list of mounts as it was read last, and what came of it.
#[derive(Default)]
struct Mounts {
    text: Vec<u8>,
    places: Arc<Places>,
}

/// A file of /proc, and the source that it is part of.
#[derive(Clone, Copy)]
struct Part {
    source: &'static str,
    file: &'static str,
    made: Made,
}

const fn at_once(source: &'static str, file: &'static str) -> Part {
    Part { source, file, made: Made::AtOnce }
}

const fn by_line(source: &'static str, file: &'static str) -> Part {
    Part { source, file, made: Made::ByLine }
}

const STAT: Part = at_once("stat", "stat");
const MEMINFO: Part = at_once("meminfo", "meminfo");

impl Sampler {
    /// A sampler of the machine mounted at `roots`, whose file systems are asked with `statvfs`.
    pub fn new(
        roots: Roots,
        statvfs: impl Fn(&Path) -> io::Result<FsSize> + Send + Sync + 'static,
    ) -> Self {
        let mut sensors = SysfsCollector::new(&roots.sys);
        Self {
            roots,
            files: Files::default(),
            aside: BlockingWorker::new(statvfs, move || sensors.read()),
            mounts: Mounts::default(),
            started: Instant::now(),
            now: 0,
            path: PathBuf::new(),
            ledger: Ledger::default(),
        }
    }

    /// The first look. Without `/proc/stat` and `/proc/meminfo` there is nothing to serve: an error.
    pub fn first(&mut self) -> Result<RawSample, Error> {
        let hint = "path.proc must be where the machine's /proc is";
        self.parse(STAT, stat::parse).map_err(|error| error.with_hint(hint))?;
        self.parse(MEMINFO, meminfo::parse).map_err(|error| error.with_hint(hint))?;
        Ok(self.look(limits::SENSORS_PATIENCE.0, None))
    }

    /// Another look, without GPUs and heartbeats, which others look after. What cannot be read is absent and
    /// said in the log, once. The next look is an `interval` later, if that is known.
    pub fn read(&mut self, interval: Option<Duration>) -> RawSample {
        self.look(limits::SENSORS_PATIENCE.1, interval)
    }

    fn look(&mut self, patience: Duration, interval: Option<Duration>) -> RawSample {
        let since = Instant::now();
        self.now = unix_seconds();
        let mounted = self.mounts();
        let (stat, meminfo) =
            (self.needed(STAT, stat::parse), self.needed(MEMINFO, meminfo::parse));
        // They answer while the other files are read.
        self.aside.ask(&self.mounts.places, interval);
        let mut reading = RawSample {
            monotonic: self.started.elapsed(),
            unix_seconds: self.now,
            hostname: host_info::hostname(&mut self.files, &self.roots),
            stat,
            meminfo,
            loadavg: self.optional(at_once("loadavg", "loadavg"), loadavg::parse),
            uptime_seconds: self.optional(at_once("uptime", "uptime"), uptime::parse),
            pressure: self.pressure(),
            diskstats: self
                .optional(by_line("diskstats", "diskstats"), diskstats::parse)
                .unwrap_or_default(),
            net_dev: self
                .of_init(("netdev", "net/dev"), "net/dev", net_dev::parse)
                .unwrap_or_default(),
            vmstat: self.optional(by_line("vmstat", "vmstat"), vmstat::parse),
            file_nr: self.optional(at_once("filefd", "sys/fs/file-nr"), file_nr::parse),
            ..RawSample::default()
        };
        reading.low_watermark_bytes = self.low_watermark_bytes(reading.meminfo.as_ref());
        // Which the mounts of other machines are asked after.
        reading.devices = self.devices(patience);
        reading.file_systems = self.file_systems(mounted);
        reading.file_systems_stuck = self.aside.hung_mounts();
        reading.collectors = self.ledger.end();
        reading.duration = since.elapsed();
        reading
    }

    /// Notes how somebody else's source did, before the next look.
    pub fn record(&mut self, name: &'static str, success: bool, took: Duration) {
        self.ledger.record(name, success, took, unix_seconds());
    }

    fn pressure(&mut self) -> Pressures {
        Pressures {
            cpu: self.optional(at_once("pressure", "pressure/cpu"), pressure::parse),
            memory: self.optional(at_once("pressure", "pressure/memory"), pressure::parse),
            io: self.optional(at_once("pressure", "pressure/io"), pressure::parse),
        }
    }

    fn low_watermark_bytes(&mut self, meminfo: Option<&meminfo::MemInfo>) -> Option<u64> {
        if meminfo?.mem_available_bytes.is_some() {
            return None;
        }
        let parse = zoneinfo::parse_low_watermark_pages;
        let pages = self.optional(by_line("zoneinfo", "zoneinfo"), parse)?;
        Some(pages.saturating_mul(sys::page_size_bytes()))
    }

    /// What sysfs says. If it hangs, it is left out until it does not.
    fn devices(&mut self, patience: Duration) -> Arc<Devices> {
        let since = Instant::now();
        let found = self.aside.devices(patience).ok_or_else(|| {
            Error::system("read sensors and interfaces".to_owned(), io::ErrorKind::TimedOut.into())
        });
        self.ledger.note(("sysfs", "sysfs"), found, since, self.now).unwrap_or_default()
    }

    /// Between looks: leaves what hangs behind. Says when to come again, if not with the next
    /// look.
    pub fn tend(&mut self) -> Option<Duration> {
        self.aside.tend()
    }

    fn parse<T>(
        &mut self,
        part: Part,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, Error> {
        self.path.as_mut_os_string().clear();
        self.path.push(&self.roots.proc);
        self.path.push(part.file);
        self.files.parse(&self.path, part.made, parse)
    }

    /// A file that every kernel has.
    fn needed<T>(
        &mut self,
        part: Part,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Option<T> {
        let since = Instant::now();
        let result = self.parse(part, parse);
        self.ledger.note((part.source, part.file), result, since, self.now)
    }

    /// A file that this kernel may not have: then it is absent, and nothing is said.
    fn optional<T>(
        &mut self,
        part: Part,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Option<T> {
        let since = Instant::now();
        match self.parse(part, parse) {
            Err(Error::System { ref source, .. }) if is_absent(source) => None,
            result => self.ledger.note((part.source, part.file), result, since, self.now),
        }
    }

    /// Files below `self` speak of the reader's own namespaces. Where /proc is not our own (a container
    /// with the host's mounted elsewhere), the machine's are those of its process 1.
    fn of_init<T>(
        &mut self,
        (source, name): (&'static str, &'static str),
        own: &'static str,
        mut parse: impl FnMut(&[u8]) -> Result<T, ParseError>,
    ) -> Option<T> {
        let since = Instant::now();
        if self.roots.proc.as_os_str() != "/proc" {
            let path = self.roots.proc.join("1").join(name);
            if let Ok(found) = self.files.parse(&path, Made::ByLine, &mut parse) {
                self.ledger.record(source, true, since.elapsed(), self.now);
                return Some(found);
            }
        }
        self.optional(by_line(source, own), parse)
    }

    /// Looks what is mounted; whether that is known. Mounts seldom change, and parsing their list costs more than
    /// all other files together: it is done when the list's text has changed.
    fn mounts(&mut self) -> bool {
        if self.mounts.places.are_as_they_were() {
            return true;
        }
        let mut mounts = std::mem::take(&mut self.mounts);
        let root = self.roots.root.clone();
        let watched = self.watch_mounts();
        let mut changed = None;
        let read = self.of_init(("filesystem", "mountinfo"), "self/mountinfo", |text| {
            if text != mounts.text {
                changed = Some(worth_asking(mountinfo::parse(text)?, &root));
                text.clone_into(&mut mounts.text);
            }
            Ok(())
        });
        if let Some(mut changed) = changed {
            if changed.iter().any(|mount| mount.read_only) {
                // Where we may not read it, ours is believed.
                let of_init = self.roots.proc.join("1/mountinfo");
                if let Ok(of_init) = self.files.parse(&of_init, Made::ByLine, mountinfo::parse) {
                    unshield(&mut changed, &of_init);
                }
            }
            let place = |mount| Arc::new(Place::new(&root, mount));
            let all = changed.into_iter().map(place).collect();
            mounts.places = Arc::new(Places::new(all, watched));
        } else if watched.is_some() {
            mounts.places = Arc::new(Places::new(mounts.places.all.clone(), watched));
        }
        if read.is_some() {
            self.mounts = mounts;
        }
        read.is_some()
    }

    /// The list of mounts, if it is the kernel's own. It is opened before it is read: what changes in between is
    /// seen the next time.
    fn watch_mounts(&self) -> Option<File> {
        let proc = &self.roots.proc;
        let of_init = (proc.as_os_str() != "/proc").then(|| proc.join("1/mountinfo"));
        // Without waiting: a pipe in its place has nothing to say.
        let open = |path: PathBuf| {
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()
        };
        let list = of_init.and_then(open).or_else(|| open(proc.join("self/mountinfo")))?;
        let is_kernels = list.metadata().is_ok_and(|metadata| metadata.len() == 0);
        is_kernels.then_some(list)
    }

    /// How full the file systems are.
    fn file_systems(&mut self, mounted: bool) -> Vec<FileSystem> {
        let since = Instant::now();
        let found = self.aside.file_systems();
        if mounted {
            self.ledger.record("filesystem", true, since.elapsed(), self.now);
        }
        found
    }
}

/// No such file, or pressure accounting that is compiled in and switched off.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EOPNOTSUPP)
}
