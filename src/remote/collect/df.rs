//! `df -P -k`: filesystem usage of a host on which statvfs cannot be called.
//!
//! Format: POSIX, df, "-P"; the last column may contain spaces. Two real lines:
//!
//! ```text
//! Filesystem     1024-blocks     Used Available Capacity Mounted on
//! /dev/vda         264212084 40182460  55103428      43% /
//! ```

use crate::procfs::lines;
use crate::util::text::parse_decimal;

/// A filesystem in df's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DfEntry {
    pub device: Vec<u8>,
    pub mount_point: Vec<u8>,
    pub total_bytes: u64,
    pub used_bytes: u64,
    /// Space that an unprivileged user can still write.
    pub available_bytes: u64,
}

/// Parses the output of df. Lines that describe no filesystem are skipped: the heading, and errors about filesystems
/// that df could not query.
pub fn parse(text: &[u8]) -> Vec<DfEntry> {
    lines(text).filter_map(|(_, line)| entry(line)).collect()
}

fn entry(line: &[u8]) -> Option<DfEntry> {
    let (device, rest) = split_field(line)?;
    let (total, rest) = split_field(rest)?;
    let (used, rest) = split_field(rest)?;
    let (available, rest) = split_field(rest)?;
    let (capacity, rest) = split_field(rest)?;
    let is_capacity = capacity.ends_with(b"%") || capacity == b"-";
    let mount_point = rest.trim_ascii_start();
    let bytes = |field: &[u8]| parse_decimal(field)?.checked_mul(1024);
    (is_capacity && mount_point.starts_with(b"/")).then_some(())?;
    Some(DfEntry {
        device: device.to_vec(),
        mount_point: mount_point.to_vec(),
        total_bytes: bytes(total)?,
        used_bytes: bytes(used)?,
        available_bytes: bytes(available)?,
    })
}

/// Splits a line after its first field.
fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|byte| *byte == b' ' || *byte == b'\t')?;
    line.split_at_checked(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &[u8] = b"Filesystem     1024-blocks     Used Available Capacity Mounted on
/dev/vda         264212084 40182460  55103428      43% /
/dev/sdb1              100       40        50      45% /mnt/my disk
df: /mnt/gone: Input/output error
";

    #[test]
    fn parses_real_output() {
        let entries = parse(REAL);
        assert_eq!(entries.len(), 2);
        assert_eq!(
            (&entries[0].device[..], &entries[0].mount_point[..]),
            (&b"/dev/vda"[..], &b"/"[..])
        );
        assert_eq!(entries[0].total_bytes, 264_212_084 * 1024);
        assert_eq!((entries[1].used_bytes, entries[1].available_bytes), (40 * 1024, 50 * 1024));
        assert_eq!(entries[1].mount_point, b"/mnt/my disk");
    }

    #[test]
    fn skips_malformed_and_truncated_lines() {
        assert_eq!(
            parse(b"/dev/x 99999999999999999999 1 1 1% /\n/dev/x 1 1 1 1 /\n/dev/x 1\n"),
            []
        );
        for end in 0..REAL.len() {
            assert!(parse(&REAL[..end]).len() <= 2);
        }
    }
}
