//! `/proc/stat`: CPU times and other counters since boot.
//!
//! Format: kernel `Documentation/filesystems/proc.rst` 1.7, proc(5). Two real lines:
//!
//! ```text
//! cpu  10132153 290696 3084719 46828483 16683 0 25195 0 175628 0
//! cpu0 1393280 32966 572056 13343292 6130 0 17875 0 23933 0
//! ```

use crate::procfs::{ParseError, fields, lines, number};
use crate::util::text::parse_decimal;

/// Time spent since boot in each state, in ticks of `USER_HZ` (100 per second).
///
/// A column that an old kernel does not print (steal since Linux 2.6.11, guest_nice since 2.6.33) is a state that it does not
/// count: 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTimes {
    pub user: u64,
    pub nice: u64,
    pub system: u64,
    pub idle: u64,
    /// Idle while I/O was outstanding.
    pub iowait: u64,
    pub irq: u64,
    pub softirq: u64,
    /// Taken by the hypervisor.
    pub steal: u64,
    /// Included in `user`.
    pub guest: u64,
    /// Included in `nice`.
    pub guest_nice: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stat {
    pub total: CpuTimes,
    /// Online CPUs with their numbers; an offline one leaves a gap.
    pub cpus: Vec<(u32, CpuTimes)>,
    pub interrupts: Option<u64>,
    pub context_switches: Option<u64>,
    /// Unix time.
    pub boot_time_seconds: Option<u64>,
    /// Number of processes and threads created.
    pub forks: Option<u64>,
    /// Number of threads that run or are ready to run.
    pub procs_running: Option<u64>,
    /// Number of threads that wait for I/O.
    pub procs_blocked: Option<u64>,
}

/// Fails without the total of all CPUs.
pub fn parse(text: &[u8]) -> Result<Stat, ParseError> {
    let mut stat = Stat::default();
    let mut seen_total = false;
    for (at, line) in lines(text) {
        let mut fields = fields(line);
        let Some(key) = fields.next() else { continue };
        if let Some(cpu) = key.strip_prefix(b"cpu") {
            let times = cpu_times(at, fields)?;
            if cpu.is_empty() {
                stat.total = times;
                seen_total = true;
            } else {
                let cpu = parse_decimal(cpu).and_then(|cpu| u32::try_from(cpu).ok());
                let cpu = cpu.ok_or_else(|| ParseError::new(at, "a CPU number", key))?;
                stat.cpus.push((cpu, times));
            }
            continue;
        }
        let slot = match key {
            b"intr" => &mut stat.interrupts,
            b"ctxt" => &mut stat.context_switches,
            b"btime" => &mut stat.boot_time_seconds,
            b"processes" => &mut stat.forks,
            b"procs_running" => &mut stat.procs_running,
            b"procs_blocked" => &mut stat.procs_blocked,
            _ => continue,
        };
        *slot = Some(number(at, fields.next())?);
    }
    if seen_total { Ok(stat) } else { Err(ParseError::missing("a line \"cpu\"")) }
}

fn cpu_times<'a>(
    at: usize,
    mut fields: impl Iterator<Item = &'a [u8]>,
) -> Result<CpuTimes, ParseError> {
    let user = number(at, fields.next())?;
    let nice = number(at, fields.next())?;
    let system = number(at, fields.next())?;
    let idle = number(at, fields.next())?;
    let mut later = || fields.next().map_or(Ok(0), |field| number(at, Some(field)));
    Ok(CpuTimes {
        user,
        nice,
        system,
        idle,
        iowait: later()?,
        irq: later()?,
        softirq: later()?,
        steal: later()?,
        guest: later()?,
        guest_nice: later()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"cpu  10132153 290696 3084719 46828483 16683 0 25195 0 175628 0
cpu0 1393280 32966 572056 13343292 6130 0 17875 0 23933 0
cpu2 1335390 31032 555056 13339292 5130 0 1875 7 23923 0
intr 1462898 0 9 0 0 0 0 3 0 1 0 0
ctxt 115315
btime 769041601
processes 86031
procs_running 6
procs_blocked 2
softirq 54117 0 1 2
";

    #[test]
    fn parses_a_real_sample() {
        let stat = parse(REAL).unwrap();
        assert_eq!(stat.total.user, 10132153);
        assert_eq!(stat.total.guest, 175628);
        assert_eq!(stat.cpus.iter().map(|(cpu, _)| *cpu).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(stat.cpus[1].1.steal, 7);
        assert_eq!((stat.interrupts, stat.context_switches), (Some(1462898), Some(115315)));
        assert_eq!((stat.boot_time_seconds, stat.forks), (Some(769041601), Some(86031)));
        assert_eq!((stat.procs_running, stat.procs_blocked), (Some(6), Some(2)));
    }

    #[test]
    fn parses_four_columns_of_linux_2_4() {
        let stat = parse(b"cpu  1 2 3 4\ncpu0 1 2 3 4\n").unwrap();
        assert_eq!((stat.total.idle, stat.total.steal), (4, 0));
        assert_eq!(stat.context_switches, None);
    }

    #[test]
    fn rejects_malformed_text() {
        for bad in [
            &b""[..],
            b"cpu0 1 2 3 4\n",
            b"cpu 1 2 3\n",
            b"cpu 1 2 3 99999999999999999999\n",
            b"cpu 1 2 3 4\ncpuX 1 2 3 4\n",
            b"cpu 1 2 3 4\ncpu99999999999 1 2 3 4\n",
        ] {
            assert!(parse(bad).is_err(), "{}", crate::util::text::escape_for_log(bad, 40));
        }
        parse_every_prefix(REAL, parse);
    }
}
