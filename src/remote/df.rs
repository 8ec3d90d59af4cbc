//! `df -P -k`: how full file systems are, where statvfs cannot be called.
//!
//! Format: POSIX, df, "-P"; the last column may hold spaces. Two real lines:
//!
//! ```text
//! Filesystem     1024-blocks     Used Available Capacity Mounted on
//! /dev/vda         264212084 40182460  55103428      43% /
//! ```

use crate::procfs::lines;
use crate::util::text::parse_decimal;

/// One file system.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Size {
    pub device: Vec<u8>,
    pub mount_point: Vec<u8>,
    pub total_bytes: u64,
    pub used_bytes: u64,
    /// What an ordinary user can still write.
    pub available_bytes: u64,
}

/// Parses what df printed. Lines that are no file system, its heading among them, are left out: it also prints what it
/// could not ask.
pub fn parse(text: &[u8]) -> Vec<Size> {
    lines(text).filter_map(|(_, line)| size(line)).collect()
}

fn size(line: &[u8]) -> Option<Size> {
    let (device, rest) = field(line)?;
    let (total, rest) = field(rest)?;
    let (used, rest) = field(rest)?;
    let (available, rest) = field(rest)?;
    let (capacity, rest) = field(rest)?;
    let is_capacity = capacity.ends_with(b"%") || capacity == b"-";
    let mount_point = rest.trim_ascii_start();
    let bytes = |field: &[u8]| parse_decimal(field)?.checked_mul(1024);
    (is_capacity && mount_point.starts_with(b"/")).then_some(())?;
    Some(Size {
        device: device.to_vec(),
        mount_point: mount_point.to_vec(),
        total_bytes: bytes(total)?,
        used_bytes: bytes(used)?,
        available_bytes: bytes(available)?,
    })
}

/// The first field of a line, and what follows it.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
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
    fn a_real_sample() {
        let sizes = parse(REAL);
        assert_eq!(sizes.len(), 2);
        assert_eq!(
            (&sizes[0].device[..], &sizes[0].mount_point[..]),
            (&b"/dev/vda"[..], &b"/"[..])
        );
        assert_eq!(sizes[0].total_bytes, 264_212_084 * 1024);
        assert_eq!((sizes[1].used_bytes, sizes[1].available_bytes), (40 * 1024, 50 * 1024));
        assert_eq!(sizes[1].mount_point, b"/mnt/my disk");
    }

    #[test]
    fn what_it_does_not_understand_is_left_out() {
        assert_eq!(
            parse(b"/dev/x 99999999999999999999 1 1 1% /\n/dev/x 1 1 1 1 /\n/dev/x 1\n"),
            []
        );
        for end in 0..REAL.len() {
            assert!(parse(&REAL[..end]).len() <= 2);
        }
    }
}
