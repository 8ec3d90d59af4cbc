//! `/sys/devices/system/cpu/online` and other lists of CPUs.
//!
//! Format: kernel `Documentation/admin-guide/cputopology.rst`. Numbers and ranges, separated by commas; an empty line is an empty
//! list. Two real files:
//!
//! ```text
//! 0-55,112-167
//!
//! ```

use crate::procfs::{ParseError, number};

/// The kernel is built for at most 8192 CPUs. A longer range would need memory for each of its numbers.
const MAX_CPUS: u64 = 8192;

pub fn parse(text: &[u8]) -> Result<Vec<u32>, ParseError> {
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    let mut cpus = Vec::new();
    if line.is_empty() {
        return Ok(cpus);
    }
    for range in line.split(|&byte| byte == b',') {
        let mut ends = range.splitn(2, |&byte| byte == b'-');
        let first = number(1, ends.next())?;
        let last = ends.next().map_or(Ok(first), |last| number(1, Some(last)))?;
        if first > last || last >= MAX_CPUS {
            return Err(ParseError::new(1, "a range of CPUs", range));
        }
        cpus.extend((first..=last).filter_map(|cpu| u32::try_from(cpu).ok()));
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    #[test]
    fn parses_numbers_and_ranges() {
        assert_eq!(parse(b"0-3,8,10-11\n"), Ok(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(parse(b"0\n"), Ok(vec![0]));
        assert_eq!(parse(b"\n"), Ok(Vec::new()));
        assert_eq!(parse(b"0-8191\n").unwrap().len(), 8192);
    }

    #[test]
    fn rejects_malformed_lists() {
        for bad in ["3-1", "0-8192", "0-18446744073709551615", "a", "1,", "0-", "-1", "1 2"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        parse_every_prefix(b"0-55,112-167\n", parse);
    }
}
