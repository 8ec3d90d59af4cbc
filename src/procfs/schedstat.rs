//! `/proc/schedstat`: scheduler statistics, if the kernel is configured with them.
//!
//! Format: kernel `Documentation/scheduler/sched-stats.rst`. The columns read here are the same in versions 14 to 17. They are counted
//! whatever `kernel.sched_schedstats` is set to. Two real lines, of a CPU and of one of its scheduling domains:
//!
//! ```text
//! cpu0 498494191 0 3533438552 2553969831 3853684107 2465731542 2045936778163039 343796328169361 4767485306
//! domain0 00000000,00000003 212499247 210112015 1861015 1860405436 536440 369895 32599 210079416 25368550 24241256 384652 …
//! ```

use crate::procfs::{ParseError, fields, number};
use crate::util::text::parse_decimal;

/// Counters of a CPU since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuSchedStat {
    pub cpu: u32,
    /// Time in which tasks ran.
    pub running_nanoseconds: u64,
    /// Sum of the times that tasks waited for the CPU.
    pub waiting_nanoseconds: u64,
    pub timeslices: u64,
}

/// Parses the line `at`: with hundreds of CPUs the file is large. `None` for other lines than those of CPUs.
pub fn parse_line(at: usize, line: &[u8]) -> Result<Option<CpuSchedStat>, ParseError> {
    let mut fields = fields(line);
    let name = fields.next().unwrap_or_default();
    let Some(digits) = name.strip_prefix(b"cpu") else { return Ok(None) };
    let cpu = parse_decimal(digits).and_then(|cpu| u32::try_from(cpu).ok());
    let cpu = cpu.ok_or_else(|| ParseError::new(at, "the number of a CPU", line))?;
    let mut fields = fields.skip(6);
    Ok(Some(CpuSchedStat {
        cpu,
        running_nanoseconds: number(at, fields.next())?,
        waiting_nanoseconds: number(at, fields.next())?,
        timeslices: number(at, fields.next())?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::lines;
    use crate::procfs::testing::parse_every_prefix;

    fn parse(text: &[u8]) -> Result<Vec<CpuSchedStat>, ParseError> {
        lines(text).filter_map(|(at, line)| parse_line(at, line).transpose()).collect()
    }

    const REAL: &[u8] = b"version 15
timestamp 15819019232
cpu0 498494191 0 3533438552 2553969831 3853684107 2465731542 2045936778163039 343796328169361 4767485306
domain0 00000000,00000003 212499247 210112015 1861015 1860405436 536440 369895 32599 210079416 25368550
cpu1 518377256 0 4155211005 2778589869 10466382 2867629021 1904686152592476 364107263788241 5145567945
domain0 00000000,00000003 217653037 215526982 1577949 1580427380 557469 393576 28538 215498444 28721913
";

    #[test]
    fn parses_a_real_sample() {
        let cpus = parse(REAL).unwrap();
        assert_eq!(cpus.len(), 2);
        assert_eq!(cpus[0].cpu, 0);
        assert_eq!(cpus[0].running_nanoseconds, 2_045_936_778_163_039);
        assert_eq!(cpus[0].waiting_nanoseconds, 343_796_328_169_361);
        assert_eq!((cpus[1].cpu, cpus[1].timeslices), (1, 5_145_567_945));
    }

    #[test]
    fn other_lines_are_ignored() {
        assert_eq!(parse(b""), Ok(vec![]));
        assert_eq!(parse(b"version 99\nnode0 1 2 3\n"), Ok(vec![]));
    }

    #[test]
    fn rejects_malformed_text() {
        assert!(parse(b"cpu0 1 2 3 4 5 6 7 8\n").is_err(), "a column is missing");
        assert!(parse(b"cpux 1 2 3 4 5 6 7 8 9\n").is_err());
        assert!(parse(b"cpu0 1 2 3 4 5 6 7 18446744073709551616 9\n").is_err());
        parse_every_prefix(REAL, parse);
    }
}
