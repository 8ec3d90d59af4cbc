//! Statistics of the agent's own process, read for each scrape.
//!
//! Always from the agent's own `/proc`, even if `path.proc` is another one: there this process has another pid, or none.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::model::status::ProcessStats;
use crate::procfs::pid_stat;
use crate::sys;

/// `USER_HZ`: clock ticks per second in `/proc/PID/stat`.
const TICKS_PER_SECOND: f64 = 100.0;

/// `None` if the boot time is not known or there is no `/proc`.
pub fn self_stats(boot_unix_seconds: Option<u64>) -> Option<ProcessStats> {
    let mut line = [0; 1024];
    let length = File::open("/proc/self/stat").ok()?.read(&mut line).ok()?;
    let stat = pid_stat::parse(line.get(..length)?).ok()?;
    let ticks = stat.user_ticks.saturating_add(stat.system_ticks);
    let start_seconds = stat.start_ticks as f64 / TICKS_PER_SECOND;
    Some(ProcessStats {
        cpu_seconds: ticks as f64 / TICKS_PER_SECOND,
        resident_bytes: stat.resident_pages.saturating_mul(sys::page_size_bytes()),
        virtual_bytes: stat.virtual_bytes,
        max_virtual_bytes: sys::address_space_limit_bytes().ok(),
        threads: stat.threads,
        open_files: open_files()?,
        max_files: sys::descriptor_limit().ok(),
        start_unix_seconds: boot_unix_seconds? as f64 + start_seconds,
    })
}

fn open_files() -> Option<u64> {
    let directory = Path::new("/proc/self/fd");
    // Since Linux 6.2 the size of the directory is the number of open files; before it is 0.
    match std::fs::metadata(directory).ok()?.len() {
        0 => Some(std::fs::read_dir(directory).ok()?.count() as u64),
        count => Some(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_plausible_values_of_this_process() {
        let stats = self_stats(Some(0)).unwrap();
        assert!(stats.resident_bytes > 100_000, "{stats:?}");
        assert!(stats.virtual_bytes > stats.resident_bytes, "{stats:?}");
        assert!(stats.threads >= 1 && stats.open_files >= 3, "{stats:?}");
        assert!(stats.max_virtual_bytes >= Some(stats.virtual_bytes), "{stats:?}");
        assert!(stats.max_files >= Some(stats.open_files), "{stats:?}");
        assert!(stats.start_unix_seconds > 0.0);
        assert_eq!(self_stats(None), None);
    }
}
