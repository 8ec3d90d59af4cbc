//! Rejects new connections when memory is short: memory mappings, or the limit of the process's control group, which the kernel
//! enforces by killing. [`crate::util::thread`] checks the address space.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::procfs::cgroup;
use crate::util::text::parse_decimal;

/// A connection is accepted only while a control group with a limit has this much left; its usage includes the kernel's memory
/// for sockets. At most an eighth of the limit.
const CGROUP_HEADROOM_BYTES: u64 = 16 << 20;
/// Memory mappings of a thread: its stack and its signal stack, each with a guard page.
const MAPPINGS_PER_THREAD: u64 = 4;
/// Mappings left for everything but connection threads.
const RESERVED_MAPPINGS: u64 = 4096;
/// Default of `vm.max_map_count`.
const DEFAULT_MAX_MAP_COUNT: u64 = 65_530;

/// A control group with a memory limit. Its files stay open: they are read for each connection, also when the process is out
/// of descriptors.
struct MemoryCgroup {
    limit: File,
    usage: File,
    stat: File,
}

/// Fails if another connection might exceed the control group's limit.
pub(crate) fn check_headroom() -> io::Result<()> {
    static CGROUP: OnceLock<Option<MemoryCgroup>> = OnceLock::new();
    match CGROUP.get_or_init(|| MemoryCgroup::of_this_process(Path::new("/sys/fs/cgroup"))) {
        Some(cgroup) if !cgroup.has_headroom() => {
            Err(io::Error::other("memory limit of the control group nearly reached"))
        }
        _ => Ok(()),
    }
}

/// One of the connection threads that `vm.max_map_count` allows. std aborts the process when a new thread cannot map its
/// signal stack, so threads beyond that are not started.
pub(crate) struct ThreadSlot(());

static CONNECTION_THREADS: AtomicU64 = AtomicU64::new(0);

impl ThreadSlot {
    pub(crate) fn acquire() -> io::Result<Self> {
        static MAX: OnceLock<u64> = OnceLock::new();
        let max = *MAX.get_or_init(|| max_threads(max_map_count()));
        let slot = Self(()); // released by drop, also on failure
        match CONNECTION_THREADS.fetch_add(1, Relaxed) < max {
            true => Ok(slot),
            false => Err(io::Error::other("vm.max_map_count allows no further threads")),
        }
    }
}

impl Drop for ThreadSlot {
    fn drop(&mut self) {
        CONNECTION_THREADS.fetch_sub(1, Relaxed);
    }
}

fn max_map_count() -> u64 {
    let sysctl = File::open("/proc/sys/vm/max_map_count").ok();
    sysctl.as_ref().and_then(number).unwrap_or(DEFAULT_MAX_MAP_COUNT)
}

fn max_threads(max_map_count: u64) -> u64 {
    max_map_count.saturating_sub(RESERVED_MAPPINGS) / MAPPINGS_PER_THREAD
}

impl MemoryCgroup {
    /// The innermost control group of this process that has a memory limit.
    fn of_this_process(mounted: &Path) -> Option<Self> {
        let text = std::fs::read("/proc/self/cgroup").ok()?;
        let group = cgroup::parse(&text).ok()?;
        let root = if group.unified { mounted.to_owned() } else { mounted.join("memory") };
        let path = Path::new(OsStr::from_bytes(&group.path));
        let innermost = root.join(path.strip_prefix("/").ok()?);
        // In a container the mounted root is the container's own group, whatever path /proc shows.
        innermost
            .ancestors()
            .take_while(|at| at.starts_with(&root))
            .find_map(|at| Self::open(at, group.unified))
    }

    fn open(directory: &Path, unified: bool) -> Option<Self> {
        let [limit, usage] = match unified {
            true => ["memory.max", "memory.current"],
            false => ["memory.limit_in_bytes", "memory.usage_in_bytes"],
        };
        let open = |name| File::open(directory.join(name)).ok();
        let cgroup = Self { limit: open(limit)?, usage: open(usage)?, stat: open("memory.stat")? };
        // Version 1 reports "no limit" as a number near 2^63.
        (number(&cgroup.limit)? < 1 << 60).then_some(cgroup)
    }

    /// True also if the files cannot be read.
    fn has_headroom(&self) -> bool {
        let (Some(limit), Some(usage)) = (number(&self.limit), number(&self.usage)) else {
            return true;
        };
        let max = limit - limit.min(CGROUP_HEADROOM_BYTES.min(limit / 8));
        usage <= max || usage.saturating_sub(self.reclaimable()) <= max
    }

    /// The page cache counts as usage, but the kernel reclaims it when memory is needed.
    fn reclaimable(&self) -> u64 {
        let mut text = [0; 8 << 10];
        let read = self.stat.read_at(&mut text, 0).unwrap_or(0);
        cgroup::parse_reclaimable(&text[..read])
    }
}

/// The number in a file; `None` for "max" or an unreadable file.
fn number(file: &File) -> Option<u64> {
    let mut text = [0; 32];
    let read = file.read_at(&mut text, 0).ok()?;
    parse_decimal(text[..read].trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_has_headroom_until_unreclaimable_usage_nears_the_limit() {
        let directory = std::env::temp_dir().join(format!("hm-memcg-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
        write("memory.stat", "inactive_file 4000\nactive_file 6000\n");
        write("memory.current", "700000\n");
        write("memory.max", "max\n");
        assert!(MemoryCgroup::open(&directory, true).is_none());
        assert!(MemoryCgroup::open(&directory, false).is_none());
        write("memory.max", "800000\n");
        let cgroup = MemoryCgroup::open(&directory, true).unwrap();
        for (used, expected) in [("700000", true), ("710000", true), ("710001", false), ("", true)]
        {
            write("memory.current", used);
            assert_eq!(cgroup.has_headroom(), expected, "{used}");
        }
        write("memory.max", "max");
        write("memory.current", "710001");
        assert!(cgroup.has_headroom(), "the limit was removed");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn default_map_count_allows_fifteen_thousand_threads() {
        assert_eq!(max_threads(DEFAULT_MAX_MAP_COUNT), 15_358);
        assert_eq!(max_threads(0), 0);
    }
}
