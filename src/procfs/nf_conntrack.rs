//! `/proc/net/stat/nf_conntrack`: counters of connection tracking.
//!
//! Format: a line of names, then a line of hexadecimal numbers for each CPU. Two real lines:
//!
//! ```text
//! entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
//! 00000021  00000000 00000000 00000000 00000003 00000000 00000000 00000004 00000000 00000000 00000000 00000000 00000001  00000000 00000000 00000000 00000000
//! ```

use crate::procfs::{ParseError, fields, lines};

/// Sums over all CPUs; `None` if the kernel does not have the column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NfConntrackStats {
    pub found: Option<u64>,
    pub invalid: Option<u64>,
    pub ignore: Option<u64>,
    pub insert: Option<u64>,
    pub insert_failed: Option<u64>,
    pub drop: Option<u64>,
    pub early_drop: Option<u64>,
    pub search_restart: Option<u64>,
}

pub fn parse(text: &[u8]) -> Result<NfConntrackStats, ParseError> {
    let mut stats = NfConntrackStats::default();
    let mut lines = lines(text);
    let names: Vec<&[u8]> =
        lines.next().map(|(_, line)| fields(line).collect()).unwrap_or_default();
    for (at, line) in lines {
        for (name, value) in names.iter().zip(fields(line)) {
            let Some(sum) = slot(&mut stats, name) else { continue };
            let value = std::str::from_utf8(value).ok();
            let value = value.and_then(|text| u64::from_str_radix(text, 16).ok());
            let value = value.ok_or_else(|| ParseError::new(at, "a hexadecimal number", line))?;
            *sum = Some(sum.unwrap_or_default().wrapping_add(value));
        }
    }
    Ok(stats)
}

fn slot<'a>(stats: &'a mut NfConntrackStats, name: &[u8]) -> Option<&'a mut Option<u64>> {
    Some(match name {
        b"found" => &mut stats.found,
        b"invalid" => &mut stats.invalid,
        b"ignore" => &mut stats.ignore,
        b"insert" => &mut stats.insert,
        b"insert_failed" => &mut stats.insert_failed,
        b"drop" => &mut stats.drop,
        b"early_drop" => &mut stats.early_drop,
        b"search_restart" => &mut stats.search_restart,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] =
        b"entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
00000021  00000000 00000000 00000000 00000003 0000588a 00000000 00000004 00000000 00000001 00000000 00000000 00000001  00000000 00000000 00000000 00000000
00000021  00000000 0000000a 00000000 00000002 000056a4 00000000 00000004 00000000 00000001 00000000 00000000 00000002  00000000 00000000 00000000 00000001
";

    #[test]
    fn sums_the_cpus_of_a_real_sample() {
        let stats = parse(REAL).unwrap();
        assert_eq!((stats.found, stats.invalid, stats.ignore), (Some(10), Some(5), Some(0xaf2e)));
        assert_eq!((stats.insert, stats.insert_failed), (Some(0), Some(2)));
        assert_eq!(
            (stats.drop, stats.early_drop, stats.search_restart),
            (Some(0), Some(0), Some(1))
        );
    }

    #[test]
    fn columns_missing_in_other_kernels_are_none() {
        let stats = parse(b"entries found\n01 0f\n").unwrap();
        assert_eq!((stats.found, stats.drop), (Some(15), None));
        assert_eq!(parse(b""), Ok(NfConntrackStats::default()));
    }

    #[test]
    fn rejects_malformed_text() {
        assert!(parse(b"found\nmany\n").is_err());
        assert!(parse(b"found\n10000000000000000\n").is_err());
        parse_every_prefix(REAL, parse);
    }
}
