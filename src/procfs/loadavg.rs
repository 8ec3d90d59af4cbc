//! `/proc/loadavg`: load averages.
//!
//! Format: proc(5). A real line:
//!
//! ```text
//! 0.20 0.18 0.12 1/80 11206
//! ```

use crate::procfs::{ParseError, fields, fraction, number};
use crate::util::text::parse_decimal;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadAvg {
    /// Mean number of threads that run or wait for a CPU or disk, over one minute.
    pub one: f64,
    pub five: f64,
    pub fifteen: f64,
    /// Threads that run or are ready to run now.
    pub running: u64,
    pub threads: u64,
    /// The process id that was assigned last.
    pub last_pid: u64,
}

pub fn parse(text: &[u8]) -> Result<LoadAvg, ParseError> {
    let mut fields = fields(text.trim_ascii());
    let one = fraction(1, fields.next())?;
    let five = fraction(1, fields.next())?;
    let fifteen = fraction(1, fields.next())?;
    let threads = fields.next().unwrap_or_default();
    let (running, threads) =
        parse_threads(threads).ok_or_else(|| ParseError::new(1, "running/threads", threads))?;
    Ok(LoadAvg { one, five, fifteen, running, threads, last_pid: number(1, fields.next())? })
}

fn parse_threads(field: &[u8]) -> Option<(u64, u64)> {
    let mut halves = field.split(|&byte| byte == b'/');
    Some((parse_decimal(halves.next()?)?, parse_decimal(halves.next()?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"0.20 0.18 0.12 1/80 11206\n";

    #[test]
    fn parses_a_real_sample() {
        let load = parse(REAL).unwrap();
        assert_eq!((load.one, load.five, load.fifteen), (0.20, 0.18, 0.12));
        assert_eq!((load.running, load.threads, load.last_pid), (1, 80, 11206));
    }

    #[test]
    fn rejects_malformed_text() {
        for bad in [&b""[..], b"0.20 0.18\n", b"0.20 0.18 x 1/80 1\n", b"0.2 0.1 0.1 180 1\n"] {
            assert!(parse(bad).is_err());
        }
        parse_every_prefix(REAL, parse);
    }
}
