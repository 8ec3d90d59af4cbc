//! `/sys/class/infiniband/<device>/ports/<port>`: state, rate and counters of an RDMA port.
//!
//! Format: `Documentation/ABI/stable/sysfs-class-infiniband`. A file has one line. Real ones of `state`, `phys_state`, `rate` and two
//! counters:
//!
//! ```text
//! 4: ACTIVE
//! 5: LinkUp
//! 400 Gb/sec (4X NDR)
//! 4631917
//! N/A (no PMA)
//! ```

use crate::procfs::{ParseError, fraction, number};

/// Parses `state` or `phys_state`: the number before the colon.
pub fn parse_state(text: &[u8]) -> Result<u64, ParseError> {
    let number_field = text.split(|&byte| byte == b':').next();
    number(1, number_field.map(<[u8]>::trim_ascii))
}

/// Parses `rate`, in bytes per second.
pub fn parse_rate(text: &[u8]) -> Result<u64, ParseError> {
    const BYTES_PER_GIGABIT: f64 = 125e6;
    let rate = text.trim_ascii();
    let (gigabits, unit) = rate.split_at(rate.iter().position(|&byte| byte == b' ').unwrap_or(0));
    if !unit.starts_with(b" Gb/sec") {
        return Err(ParseError::new(1, "a rate in Gb/sec", rate));
    }
    // Exact, because the kernel prints tenths at most.
    Ok((fraction(1, Some(gigabits))? * BYTES_PER_GIGABIT).round() as u64)
}

/// Parses a counter; `None` if the device does not answer performance management requests.
pub fn parse_counter(text: &[u8]) -> Result<Option<u64>, ParseError> {
    let text = text.trim_ascii();
    if text.starts_with(b"N/A") { Ok(None) } else { number(1, Some(text)).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    #[test]
    fn parses_real_samples() {
        assert_eq!(parse_state(b"4: ACTIVE\n"), Ok(4));
        assert_eq!(parse_state(b"7: Phy Test\n"), Ok(7));
        assert_eq!(parse_rate(b"400 Gb/sec (4X NDR)\n"), Ok(50_000_000_000));
        assert_eq!(parse_rate(b"2.5 Gb/sec (1X SDR)\n"), Ok(312_500_000));
        assert_eq!(parse_rate(b"10 Gb/sec (4X)\n"), Ok(1_250_000_000));
        assert_eq!(parse_counter(b"18446744073709551615\n"), Ok(Some(u64::MAX)));
        assert_eq!(parse_counter(b"N/A (no PMA)\n"), Ok(None));
    }

    #[test]
    fn rejects_malformed_text() {
        for text in [&b""[..], b"ACTIVE", b"99999999999999999999: ACTIVE"] {
            assert!(parse_state(text).is_err());
        }
        for text in [&b""[..], b"many Gb/sec", b"400", b"400 Mb/sec", b" Gb/sec"] {
            assert!(parse_rate(text).is_err());
        }
        for text in [&b""[..], b"-1", b"18446744073709551616"] {
            assert!(parse_counter(text).is_err());
        }
        parse_every_prefix(b"4: ACTIVE\n", parse_state);
        parse_every_prefix(b"2.5 Gb/sec (1X SDR)\n", parse_rate);
        parse_every_prefix(b"N/A (no PMA)\n", parse_counter);
    }
}
