//! `current_link_speed` of a PCI device: how fast its link runs now.
//!
//! Format: kernel `drivers/pci/probe.c`, `pci_speed_string`; before 5.6 without the decimals and `PCIe`.
//! Two real files, and what a device says that does not answer:
//!
//! ```text
//! 16.0 GT/s PCIe
//! 8 GT/s
//! Unknown
//! ```

use crate::procfs::{ParseError, fields};

/// Transfers per lane, in GT/s, of each generation from the first.
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

/// Parses a link's speed into its PCI Express generation.
pub fn parse_generation(text: &[u8]) -> Result<u32, ParseError> {
    let refuse = || ParseError::new(1, "a link speed in GT/s", text);
    let mut fields = fields(text.split(|&byte| byte == b'\n').next().unwrap_or_default());
    let (speed, unit) = (fields.next(), fields.next());
    let known = GENERATIONS.iter().find(|(known, _)| Some(*known) == speed);
    let (_, generation) = known.filter(|_| unit == Some(b"GT/s")).ok_or_else(refuse)?;
    Ok(*generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::survives_every_cut;

    #[test]
    fn every_generation_of_old_and_new_kernels() {
        let texts = ["2.5", "5.0", "8.0", "16.0", "32.0", "64.0"];
        let new = texts.map(|speed| parse_generation(format!("{speed} GT/s PCIe\n").as_bytes()));
        assert_eq!(new, [1, 2, 3, 4, 5, 6].map(Ok));
        let old = ["2.5", "5", "8", "16"];
        let old = old.map(|speed| parse_generation(format!("{speed} GT/s\n").as_bytes()));
        assert_eq!(old, [1, 2, 3, 4].map(Ok));
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        let bad =
            [&b""[..], b"Unknown\n", b"Unknown speed\n", b"16.0\n", b"160 GT/s\n", b"66 MHz PCI\n"];
        for bad in bad.into_iter().chain([&[b'9'; 400][..]]) {
            assert!(parse_generation(bad).is_err());
        }
        survives_every_cut(b"16.0 GT/s PCIe\n", parse_generation);
    }
}
