//! `/proc/vmstat`: counters of memory management, of which a few are used.
//!
//! Format: one `name value` a line; `oom_kill` since kernel 4.13. Two real lines:
//!
//! ```text
//! pgfault 9938474
//! oom_kill 0
//! ```

use crate::procfs::{ParseError, fields, lines, number};

/// Counters since boot; `None` if the kernel does not have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VmStat {
    pub oom_kill: Option<u64>,
    pub pgfault: Option<u64>,
    /// Page faults that needed I/O.
    pub pgmajfault: Option<u64>,
    /// Read from block devices, in KiB.
    pub pgpgin: Option<u64>,
    /// Written to block devices, in KiB.
    pub pgpgout: Option<u64>,
    /// Pages read from swap space.
    pub pswpin: Option<u64>,
    /// Pages written to swap space.
    pub pswpout: Option<u64>,
}

pub fn parse(text: &[u8]) -> Result<VmStat, ParseError> {
    let mut found = VmStat::default();
    for (at, line) in lines(text) {
        let mut fields = fields(line);
        let slot = match fields.next() {
            Some(b"oom_kill") => &mut found.oom_kill,
            Some(b"pgfault") => &mut found.pgfault,
            Some(b"pgmajfault") => &mut found.pgmajfault,
            Some(b"pgpgin") => &mut found.pgpgin,
            Some(b"pgpgout") => &mut found.pgpgout,
            Some(b"pswpin") => &mut found.pswpin,
            Some(b"pswpout") => &mut found.pswpout,
            _ => continue,
        };
        *slot = Some(number(at, fields.next())?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"nr_free_pages 5786345
pgpgin 19374929
pgpgout 69239244
pswpin 0
pswpout 7
pgfault 9938474
pgmajfault 27408
oom_kill 3
oom_kill_nothing many
";

    #[test]
    fn parses_a_real_sample() {
        let found = parse(REAL).unwrap();
        assert_eq!(
            (found.oom_kill, found.pgfault, found.pgmajfault),
            (Some(3), Some(9938474), Some(27408))
        );
        assert_eq!((found.pgpgin, found.pgpgout), (Some(19374929), Some(69239244)));
        assert_eq!((found.pswpin, found.pswpout), (Some(0), Some(7)));
    }

    #[test]
    fn counters_missing_in_old_kernels_are_none() {
        assert_eq!(parse(b"nr_free_pages 5786345\n"), Ok(VmStat::default()));
        assert_eq!(parse(b""), Ok(VmStat::default()));
    }

    #[test]
    fn rejects_malformed_text() {
        assert!(parse(b"oom_kill many\n").is_err());
        assert!(parse(b"pgfault\n").is_err());
        assert!(parse(b"pgfault 18446744073709551616\n").is_err());
        parse_every_prefix(REAL, parse);
    }
}
