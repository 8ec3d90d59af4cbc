//! `/proc/pressure/{cpu,memory,io,irq}`: time lost waiting for a resource, since Linux 4.20, if it is switched on; irq, the time
//! that interrupts took from tasks, since Linux 6.1. It has a line "full" only.
//!
//! Format: kernel `Documentation/accounting/psi.rst`. Two real lines:
//!
//! ```text
//! some avg10=0.00 avg60=0.12 avg300=1.53 total=4294967
//! full avg10=0.00 avg60=0.00 avg300=0.00 total=12345
//! ```

use crate::procfs::{ParseError, fields, fraction, key_value, lines, number};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stall {
    pub avg10_percent: f64,
    pub avg60_percent: f64,
    pub avg300_percent: f64,
    /// Since boot.
    pub total_microseconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pressure {
    /// Time with at least one waiting task.
    pub some: Stall,
    /// Time in which all tasks that were not idle waited; in the cpu file since Linux 5.13.
    pub full: Option<Stall>,
}

pub fn parse(text: &[u8]) -> Result<Pressure, ParseError> {
    let (some, full) = some_and_full(text)?;
    Ok(Pressure { some: some.ok_or(ParseError::missing("a line \"some\""))?, full })
}

/// Parses the file irq.
pub fn parse_irq(text: &[u8]) -> Result<Stall, ParseError> {
    some_and_full(text)?.1.ok_or(ParseError::missing("a line \"full\""))
}

fn some_and_full(text: &[u8]) -> Result<(Option<Stall>, Option<Stall>), ParseError> {
    let (mut some, mut full) = (None, None);
    for (at, line) in lines(text) {
        let mut fields = fields(line);
        match fields.next() {
            Some(b"some") => some = Some(stall(at, fields)?),
            Some(b"full") => full = Some(stall(at, fields)?),
            _ => continue,
        }
    }
    Ok((some, full))
}

fn stall<'a>(at: usize, fields: impl Iterator<Item = &'a [u8]>) -> Result<Stall, ParseError> {
    let (mut avg10, mut avg60, mut avg300, mut total) = (None, None, None, None);
    for field in fields {
        let Some((key, value)) = key_value(field, b'=') else { continue };
        match key {
            b"avg10" => avg10 = Some(value),
            b"avg60" => avg60 = Some(value),
            b"avg300" => avg300 = Some(value),
            b"total" => total = Some(value),
            _ => continue,
        }
    }
    Ok(Stall {
        avg10_percent: fraction(at, avg10)?,
        avg60_percent: fraction(at, avg60)?,
        avg300_percent: fraction(at, avg300)?,
        total_microseconds: number(at, total)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"some avg10=0.00 avg60=0.12 avg300=1.53 total=4294967
full avg10=0.00 avg60=0.00 avg300=0.02 total=12345
";

    #[test]
    fn parses_a_real_sample() {
        let pressure = parse(REAL).unwrap();
        assert_eq!(pressure.some.avg60_percent, 0.12);
        assert_eq!(pressure.some.total_microseconds, 4294967);
        assert_eq!(pressure.full.unwrap().avg300_percent, 0.02);
    }

    #[test]
    fn full_line_is_optional() {
        let some = REAL.split(|&byte| byte == b'\n').next().unwrap();
        assert_eq!(parse(some).unwrap().full, None);
    }

    #[test]
    fn irq_has_a_full_line_only() {
        let real = b"full avg10=0.00 avg60=0.00 avg300=0.04 total=8494\n";
        let stall = parse_irq(real).unwrap();
        assert_eq!((stall.avg300_percent, stall.total_microseconds), (0.04, 8494));
        assert!(parse_irq(b"some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n").is_err());
        parse_every_prefix(real, parse_irq);
    }

    #[test]
    fn rejects_malformed_text() {
        assert!(parse(b"").is_err());
        assert!(parse(b"some avg10=0.00 avg60=0.12 total=1\n").is_err());
        assert!(parse(b"some avg10=x avg60=0.12 avg300=1.53 total=1\n").is_err());
        parse_every_prefix(REAL, parse);
    }
}
