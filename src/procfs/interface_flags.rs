//! `/sys/class/net/*/flags`: state of a network interface as the administrator sets it, and more.
//!
//! Format: a hexadecimal number, netdevice(7). A real file:
//!
//! ```text
//! 0x1003
//! ```

use crate::procfs::ParseError;

/// `IFF_UP`.
const UP: u32 = 1;

/// Returns whether the interface is set up, with a link or without one.
pub fn parse_is_up(text: &[u8]) -> Result<bool, ParseError> {
    let text = text.trim_ascii();
    let digits = text.strip_prefix(b"0x").and_then(|digits| std::str::from_utf8(digits).ok());
    let flags = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let flags = flags.ok_or_else(|| ParseError::new(1, "a hexadecimal number", text))?;
    Ok(flags & UP != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    #[test]
    fn parses_real_samples() {
        assert_eq!(parse_is_up(b"0x1003\n"), Ok(true));
        assert_eq!(parse_is_up(b"0x82\n"), Ok(false));
    }

    #[test]
    fn rejects_malformed_text() {
        for text in [&b""[..], b"1003", b"0x", b"0x100000000", b"many"] {
            assert!(parse_is_up(text).is_err());
        }
        parse_every_prefix(b"0x1003\n", parse_is_up);
    }
}
