//! `/sys/fs/btrfs/<uuid>/devinfo/<id>/error_stats`: errors of a device of a Btrfs filesystem, since they were last reset.
//!
//! Format: kernel `fs/btrfs/sysfs.c`, `btrfs_devinfo_error_stats_show`. Two real lines, and the content while the counters are not
//! loaded:
//!
//! ```text
//! write_errs 0
//! corruption_errs 12
//! invalid
//! ```

use crate::procfs::{ParseError, fields, lines, number};

/// `None` if the kernel does not have the counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BtrfsErrorStats {
    pub write: Option<u64>,
    pub read: Option<u64>,
    pub flush: Option<u64>,
    pub corruption: Option<u64>,
    pub generation: Option<u64>,
}

pub fn parse(text: &[u8]) -> Result<BtrfsErrorStats, ParseError> {
    let mut stats = BtrfsErrorStats::default();
    for (at, line) in lines(text) {
        let mut words = fields(line);
        let counter = match words.next() {
            Some(b"write_errs") => &mut stats.write,
            Some(b"read_errs") => &mut stats.read,
            Some(b"flush_errs") => &mut stats.flush,
            Some(b"corruption_errs") => &mut stats.corruption,
            Some(b"generation_errs") => &mut stats.generation,
            _ => continue,
        };
        *counter = Some(number(at, words.next())?);
    }
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] =
        b"write_errs 0\nread_errs 3\nflush_errs 0\ncorruption_errs 12\ngeneration_errs 1\n";

    #[test]
    fn parses_real_file() {
        let expected = BtrfsErrorStats {
            write: Some(0),
            read: Some(3),
            flush: Some(0),
            corruption: Some(12),
            generation: Some(1),
        };
        assert_eq!(parse(REAL), Ok(expected));
    }

    #[test]
    fn missing_and_unknown_lines() {
        assert_eq!(parse(b"invalid\n"), Ok(BtrfsErrorStats::default()));
        let stats = parse(b"read_errs 7\nretry_errs many\n").unwrap();
        assert_eq!((stats.read, stats.write), (Some(7), None));
    }

    #[test]
    fn rejects_malformed_numbers() {
        for bad in ["write_errs\n", "write_errs -1\n", "write_errs 99999999999999999999\n"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        parse_every_prefix(REAL, parse);
    }
}
