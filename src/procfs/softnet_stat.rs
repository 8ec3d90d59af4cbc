//! `/proc/net/softnet_stat`: packets that each CPU received.
//!
//! Format: a line of hexadecimal numbers for each CPU that is online. Linux 3.11 and later have 11 columns at least, 5.14 and later
//! have the number of the CPU. Two real lines:
//!
//! ```text
//! 06c22ab2 00000369 0000000e 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
//! 0602ebcc 0000093b 0000000a 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000000 00000000
//! ```

use crate::procfs::{ParseError, fields, lines};

/// Counters of one CPU. They have 32 bits, so they wrap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SoftnetCpu {
    pub cpu: u32,
    pub processed: u32,
    /// The backlog was full.
    pub dropped: u32,
    /// The budget of a softirq was used up while packets were waiting.
    pub times_squeezed: u32,
    /// The lock of a device's transmit queue was held. Always 0 since Linux 4.8.
    pub cpu_collision: u32,
    pub received_rps: Option<u32>,
    pub flow_limit_count: Option<u32>,
    pub backlog_packets: Option<u32>,
}

pub fn parse(text: &[u8]) -> Result<Vec<SoftnetCpu>, ParseError> {
    let lines = (0..).zip(lines(text)).filter(|(_, (_, line))| !line.is_empty());
    lines.map(|(index, (at, line))| parse_line(index, at, line)).collect()
}

/// `index`: number of the line, which is that of the CPU unless one is offline.
fn parse_line(index: u32, at: usize, line: &[u8]) -> Result<SoftnetCpu, ParseError> {
    let columns: Option<Vec<u32>> = fields(line).map(hexadecimal).collect();
    let columns = columns.ok_or_else(|| ParseError::new(at, "hexadecimal numbers", line))?;
    let column = |number: usize| columns.get(number).copied();
    let required = |number| column(number).ok_or_else(|| ParseError::new(at, "9 columns", line));
    Ok(SoftnetCpu {
        cpu: column(12).unwrap_or(index),
        processed: required(0)?,
        dropped: required(1)?,
        times_squeezed: required(2)?,
        cpu_collision: required(8)?,
        received_rps: column(9),
        flow_limit_count: column(10),
        backlog_packets: column(11),
    })
}

fn hexadecimal(field: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(field).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] =
        b"06c22ab2 00000369 0000000e 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
0602ebcc 0000093b 0000000a 00000000 00000000 00000000 00000000 00000000 00000003 00000004 00000005 00000006 00000002 00000000 00000000
";

    #[test]
    fn parses_a_real_sample() {
        let cpus = parse(REAL).unwrap();
        let first = SoftnetCpu {
            cpu: 0,
            processed: 0x6c2_2ab2,
            dropped: 0x369,
            times_squeezed: 14,
            cpu_collision: 0,
            received_rps: Some(0),
            flow_limit_count: Some(0),
            backlog_packets: Some(0),
        };
        assert_eq!(cpus[0], first);
        assert_eq!((cpus[1].cpu, cpus[1].cpu_collision), (2, 3), "CPU 1 is offline");
        assert_eq!((cpus[1].received_rps, cpus[1].flow_limit_count), (Some(4), Some(5)));
        assert_eq!((cpus[1].backlog_packets, cpus.len()), (Some(6), 2));
    }

    #[test]
    fn columns_missing_in_old_kernels_are_none() {
        let cpus = parse(b"1 2 3 4 5 6 7 8 9\n1 2 3 4 5 6 7 8 a\n").unwrap();
        assert_eq!((cpus[1].cpu, cpus[1].cpu_collision), (1, 10));
        assert_eq!((cpus[1].received_rps, cpus[1].backlog_packets), (None, None));
        assert_eq!(parse(b""), Ok(Vec::new()));
    }

    #[test]
    fn rejects_malformed_text() {
        assert!(parse(b"1 2 3 4 5 6 7 8\n").is_err());
        assert!(parse(b"1 2 3 4 5 6 7 8 many\n").is_err());
        assert!(parse(b"1 2 3 4 5 6 7 8 100000000\n").is_err());
        parse_every_prefix(REAL, parse);
    }
}
