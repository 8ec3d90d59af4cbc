//! `/sys/class/net/*/speed`: the link speed of a network interface in Mbit/s.
//!
//! Format: kernel `Documentation/ABI/testing/sysfs-class-net`. Two real files, the second one of an interface without a link:
//!
//! ```text
//! 100000
//! -1
//! ```

use crate::procfs::{ParseError, number};

/// Numbers that mean "unknown" to ethtool, which prints "Unknown!" for them: 0, and -1 in 16 and in 32 bits. A negative number is
/// not a decimal number here.
const UNKNOWN_MEGABITS: [u64; 3] = [0, 65_535, 4_294_967_295];

/// Returns bytes per second. An unknown speed is an error.
pub fn parse_bytes(text: &[u8]) -> Result<u64, ParseError> {
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    let megabits = number(1, Some(line))?;
    let is_known = !UNKNOWN_MEGABITS.contains(&megabits) && u32::try_from(megabits).is_ok();
    let bytes = is_known.then(|| megabits.checked_mul(125_000)).flatten();
    bytes.ok_or_else(|| ParseError::new(1, "a link speed in Mbit/s", line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    #[test]
    fn converts_megabits_to_bytes() {
        assert_eq!(parse_bytes(b"10\n"), Ok(1_250_000));
        assert_eq!(parse_bytes(b"100000\n"), Ok(12_500_000_000));
        assert_eq!(parse_bytes(b"65534"), Ok(8_191_750_000));
    }

    #[test]
    fn rejects_unknown_speeds() {
        for text in
            ["0", "-1", "-2147483648", "65535", "4294967295", "18446744073709551615", "", "fast"]
        {
            assert!(parse_bytes(text.as_bytes()).is_err(), "{text}");
        }
        parse_every_prefix(b"100000\n", parse_bytes);
    }
}
