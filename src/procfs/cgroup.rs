//! `/proc/PID/cgroup` (cgroups(7)): a line for each hierarchy. `/sys/fs/cgroup/.../memory.stat`, of either version.
//!
//! ```text
//! 4:memory:/system.slice/hm-agent.service
//! 0::/system.slice/hm-agent.service
//! ```

use crate::procfs::ParseError;
use crate::util::text::parse_decimal;

/// Where a process's memory is accounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Version 2 has one hierarchy for everything.
    pub unified: bool,
    /// Below where the hierarchy is mounted, with a `/` before it.
    pub path: Vec<u8>,
}

/// The group that accounts memory. Where version 1 does that, version 2 does not, though it may be there.
pub fn parse(text: &[u8]) -> Result<Group, ParseError> {
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
            return Ok(Group { unified: false, path });
        }
        if controllers.is_empty() {
            unified = Some(Group { unified: true, path });
        }
    }
    unified.ok_or(ParseError::missing("a group of processes that accounts memory"))
}

/// Of a group's memory, what the kernel can take back: files that it keeps, in bytes.
pub fn parse_reclaimable(text: &[u8]) -> u64 {
    let value = |line: &[u8]| {
        let line = line.strip_prefix(b"total_").unwrap_or(line);
        let number = line.strip_prefix(b"inactive_file ").or(line.strip_prefix(b"active_file "))?;
        parse_decimal(number)
    };
    // Version 1 has each twice: the group's own, and with all groups below it, which comes last.
    let lines: Vec<u64> = text.split(|&byte| byte == b'\n').filter_map(value).collect();
    lines.iter().rev().take(2).fold(0, |sum, bytes| sum.saturating_add(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::survives_every_cut;

    fn group(unified: bool, path: &str) -> Group {
        Group { unified, path: path.as_bytes().to_owned() }
    }

    #[test]
    fn a_group_is_found_in_both_versions() {
        let one = b"9:name=systemd:/\n8:pids:/\n5:cpu,memory:/a:b\n1:cpu:/\n0::/\n";
        assert_eq!(parse(one), Ok(group(false, "/a:b")));
        let two = b"0::/system.slice/hm-agent.service\n";
        assert_eq!(parse(two), Ok(group(true, "/system.slice/hm-agent.service")));
        assert!(parse(b"").is_err() && parse(b"8:pids:/\nrubbish\n").is_err());
        survives_every_cut(one, parse);
    }

    #[test]
    fn files_can_be_taken_back() {
        let two = b"anon 8192\nfile 12288\ninactive_anon 1\ninactive_file 4096\nactive_file 8192\nunevictable 0\n";
        assert_eq!(parse_reclaimable(two), 12288);
        let one = b"inactive_file 1\nactive_file 2\ntotal_inactive_anon 9\ntotal_inactive_file 100\ntotal_active_file 20\ntotal_unevictable 0\n";
        assert_eq!(parse_reclaimable(one), 120);
        assert_eq!(parse_reclaimable(b"inactive_file x\n"), 0);
        let most = b"inactive_file 18446744073709551615\nactive_file 18446744073709551615\n";
        assert_eq!(parse_reclaimable(most), u64::MAX);
    }
}
