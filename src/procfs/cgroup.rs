//! `/proc/PID/cgroup`, see cgroups(7), and `memory.stat` of a cgroup, of version 1 or 2. A real line of each version:
//!
//! ```text
//! 4:memory:/system.slice/hm-agent.service
//! 0::/system.slice/hm-agent.service
//! ```

use crate::procfs::ParseError;
use crate::util::text::parse_decimal;

/// The cgroup that accounts the memory of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupPath {
    /// Version 2, which has one hierarchy for all controllers.
    pub unified: bool,
    /// Relative to the mount point of the hierarchy, with a leading `/`.
    pub path: Vec<u8>,
}

/// Finds the cgroup that accounts memory. If a version 1 hierarchy has the memory controller, version 2 does not, even if it is
/// mounted.
pub fn parse(text: &[u8]) -> Result<CgroupPath, ParseError> {
    let mut unified = None;
    for line in text.split(|&byte| byte == b'\n') {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let path = path.to_owned();
        if controllers.split(|&byte| byte == b',').any(|name| name == b"memory") {
            return Ok(CgroupPath { unified: false, path });
        }
        if controllers.is_empty() {
            unified = Some(CgroupPath { unified: true, path });
        }
    }
    unified.ok_or(ParseError::missing("a cgroup with the memory controller"))
}

/// The page cache of a cgroup in bytes, which the kernel can reclaim.
pub fn parse_reclaimable(text: &[u8]) -> u64 {
    let value = |line: &[u8]| {
        let line = line.strip_prefix(b"total_").unwrap_or(line);
        let number = line.strip_prefix(b"inactive_file ").or(line.strip_prefix(b"active_file "))?;
        parse_decimal(number)
    };
    // Version 1 prints each value twice: for the cgroup itself, and last with all its descendants.
    let lines: Vec<u64> = text.split(|&byte| byte == b'\n').filter_map(value).collect();
    lines.iter().rev().take(2).fold(0, |sum, bytes| sum.saturating_add(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    fn cgroup(unified: bool, path: &str) -> CgroupPath {
        CgroupPath { unified, path: path.as_bytes().to_owned() }
    }

    #[test]
    fn finds_memory_cgroup_of_both_versions() {
        let one = b"9:name=systemd:/\n8:pids:/\n5:cpu,memory:/a:b\n1:cpu:/\n0::/\n";
        assert_eq!(parse(one), Ok(cgroup(false, "/a:b")));
        let two = b"0::/system.slice/hm-agent.service\n";
        assert_eq!(parse(two), Ok(cgroup(true, "/system.slice/hm-agent.service")));
        assert!(parse(b"").is_err() && parse(b"8:pids:/\nrubbish\n").is_err());
        parse_every_prefix(one, parse);
    }

    #[test]
    fn sums_active_and_inactive_files() {
        let two = b"anon 8192\nfile 12288\ninactive_anon 1\ninactive_file 4096\nactive_file 8192\nunevictable 0\n";
        assert_eq!(parse_reclaimable(two), 12288);
        let one = b"inactive_file 1\nactive_file 2\ntotal_inactive_anon 9\ntotal_inactive_file 100\ntotal_active_file 20\ntotal_unevictable 0\n";
        assert_eq!(parse_reclaimable(one), 120);
        assert_eq!(parse_reclaimable(b"inactive_file x\n"), 0);
        let most = b"inactive_file 18446744073709551615\nactive_file 18446744073709551615\n";
        assert_eq!(parse_reclaimable(most), u64::MAX);
    }
}
