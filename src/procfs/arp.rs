//! `/proc/net/arp`: the neighbours of IPv4, without those that need no address resolution.
//!
//! Format: proc(5); a line of names, then a line for each neighbour, whose last column is the interface. Two real lines:
//!
//! ```text
//! IP address       HW type     Flags       HW address            Mask     Device
//! 192.0.2.1        0x1         0x2         02:fc:00:00:00:05     *        eth0
//! ```

use crate::procfs::{ParseError, fields};

/// Returns the interface of a line; `None` for the line of names. `at`: number of the line, from 1.
pub fn parse_device(at: usize, line: &[u8]) -> Result<Option<&[u8]>, ParseError> {
    if at == 1 || line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let device = fields(line).nth(5);
    device.map(Some).ok_or_else(|| ParseError::new(at, "six columns", line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::lines;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] =
        b"IP address       HW type     Flags       HW address            Mask     Device
192.0.2.1        0x1         0x2         02:fc:00:00:00:05     *        eth0
10.244.1.7       0x1         0x0         00:00:00:00:00:00     *        cni0
";

    fn parse(text: &[u8]) -> Result<Vec<&[u8]>, ParseError> {
        lines(text).filter_map(|(at, line)| parse_device(at, line).transpose()).collect()
    }

    #[test]
    fn parses_a_real_sample() {
        assert_eq!(parse(REAL).unwrap(), [b"eth0", b"cni0"]);
        assert_eq!(parse(b""), Ok(Vec::new()));
    }

    #[test]
    fn rejects_malformed_text() {
        assert!(parse_device(2, b"192.0.2.1 0x1 0x2 02:fc:00:00:00:05 *").is_err());
        parse_every_prefix(REAL, |text| parse(text).map(|_| ()));
    }
}
