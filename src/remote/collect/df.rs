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
    (is_capacity && mount_point.starts_with(b"/")).then_some(())?;
    let total_bytes = bytes(total)?;
    Some(DfEntry {
        device: device.to_vec(),
        mount_point: mount_point.to_vec(),
        total_bytes,
        used_bytes: bytes(used)?,
        // BusyBox prints a negative number as a huge one.
        available_bytes: bytes(available).filter(|bytes| *bytes <= total_bytes).unwrap_or(0),
    })
}

/// Less than nothing is available, or in use, if a quota or the space reserved for root is overdrawn.
fn bytes(kibibytes: &[u8]) -> Option<u64> {
    match kibibytes.strip_prefix(b"-") {
        Some(negative) => parse_decimal(negative).map(|_| 0),
        None => parse_decimal(kibibytes)?.checked_mul(1024),
    }
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
    fn negative_sizes_are_zero() {
        let text = b"nas:/a 800000000 799999600 -20000 101% /a\n/dev/b 1000 -8 1000 0% /b\n/dev/c 1000 1000 18014398509461984 0% /c\n/dev/d 1000 1000 4294947296 0% /d\n";
        let entries = parse(text);
        let sizes: Vec<_> = entries
            .iter()
            .map(|entry| (entry.used_bytes >> 10, entry.available_bytes >> 10))
            .collect();
        assert_eq!(sizes, [(799_999_600, 0), (0, 1000), (1000, 0), (1000, 0)]);
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
