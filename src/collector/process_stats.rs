//! The agent's own process, as the kernel sees it. Read when somebody asks: no driver is in the way.
//!
//! Always below `/proc`, wherever the machine's is mounted: there this process has another number, or none.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::metrics::ProcessStats;
use crate::procfs::pid_stat;
use crate::sys;

/// `USER_HZ`: how many ticks the kernel counts in a second.
const TICKS: f64 = 100.0;

/// This process; `boot_unix_seconds` is when the machine was started. `None` where there is no `/proc`.
pub fn process(boot_unix_seconds: Option<u64>) -> Option<ProcessStats> {
    let mut line = [0; 1024];
    let length = File::open("/proc/self/stat").ok()?.read(&mut line).ok()?;
    let stat = pid_stat::parse(line.get(..length)?).ok()?;
    Some(ProcessStats {
        cpu_seconds: stat.user_ticks.saturating_add(stat.system_ticks) as f64 / TICKS,
        resident_bytes: stat.resident_pages.saturating_mul(sys::page_size_bytes()),
        virtual_bytes: stat.virtual_bytes,
        threads: stat.threads,
        open_files: open_files()?,
        max_files: sys::descriptor_limit().unwrap_or_default(),
        start_unix_seconds: boot_unix_seconds? as f64 + stat.start_ticks as f64 / TICKS,
    })
}

fn open_files() -> Option<u64> {
    let directory = Path::new("/proc/self/fd");
    // Since 6.2 their number is the directory's size; before, they must be counted.
    match std::fs::metadata(directory).ok()?.len() {
        0 => Some(std::fs::read_dir(directory).ok()?.count() as u64),
        count => Some(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_as_the_standard_library_sees_it() {
        let own = process(Some(0)).unwrap();
        assert!(own.resident_bytes > 100_000 && own.virtual_bytes > own.resident_bytes, "{own:?}");
        assert!(own.threads >= 1 && own.open_files >= 3 && own.max_files >= own.open_files);
        assert!(own.start_unix_seconds > 0.0);
        assert_eq!(process(None), None);
    }
}
