//! `current_link_speed` of a PCI device.
//!
//! Format: kernel `drivers/pci/probe.c`, `pci_speed_string`; before 5.6 without the decimals and `PCIe`.
//! Two real files, and the content for a device that does not respond:
//!
//! ```text
//! 16.0 GT/s PCIe
//! 8 GT/s
//! Unknown
//! ```

use crate::procfs::{ParseError, fields};

/// Transfer rates per lane in GT/s, and their PCI Express generation.
const GENERATIONS: [(&[u8], u32); 9] = [
    (b"2.5", 1),
    (b"5.0", 2),
    (b"5", 2),
    (b"8.0", 3),
    (b"8", 3),
    (b"16.0", 4),
    (b"16", 4),
    (b"32.0", 5),
    (b"64.0", 6),
];

/// Returns the PCI Express generation.
pub fn parse_generation(text: &[u8]) -> Result<u32, ParseError> {
    let malformed = || ParseError::new(1, "a link speed in GT/s", text);
    let mut fields = fields(text.split(|&byte| byte == b'\n').next().unwrap_or_default());
    let (speed, unit) = (fields.next(), fields.next());
    let known = GENERATIONS.iter().find(|(known, _)| Some(*known) == speed);
    let (_, generation) = known.filter(|_| unit == Some(b"GT/s")).ok_or_else(malformed)?;
    Ok(*generation)
}

/// Transfers per second and lane of a PCI Express generation. `None` for one that does not exist.
pub fn transfers_per_second(generation: u32) -> Option<u64> {
    Some(match generation {
        1 => 2_500_000_000,
        2 => 5_000_000_000,
        3 => 8_000_000_000,
        4 => 16_000_000_000,
        5 => 32_000_000_000,
        6 => 64_000_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    #[test]
    fn parses_each_generation_of_old_and_new_kernels() {
        let texts = ["2.5", "5.0", "8.0", "16.0", "32.0", "64.0"];
        let new = texts.map(|speed| parse_generation(format!("{speed} GT/s PCIe\n").as_bytes()));
        assert_eq!(new, [1, 2, 3, 4, 5, 6].map(Ok));
        let old = ["2.5", "5", "8", "16"];
        let old = old.map(|speed| parse_generation(format!("{speed} GT/s\n").as_bytes()));
        assert_eq!(old, [1, 2, 3, 4].map(Ok));
    }

    #[test]
    fn rejects_malformed_text() {
        let bad =
            [&b""[..], b"Unknown\n", b"Unknown speed\n", b"16.0\n", b"160 GT/s\n", b"66 MHz PCI\n"];
        for bad in bad.into_iter().chain([&[b'9'; 400][..]]) {
            assert!(parse_generation(bad).is_err());
        }
        parse_every_prefix(b"16.0 GT/s PCIe\n", parse_generation);
    }
}
