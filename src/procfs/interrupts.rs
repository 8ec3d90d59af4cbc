//! `/proc/interrupts`: interrupts of each kind on each CPU since boot.
//!
//! Format: proc_interrupts(5). A line of CPUs, then a line for each kind: its number and chip with the devices behind it, or its name
//! with a description. `ERR` and `MIS` have one number for all CPUs. Two real lines of a machine with two CPUs:
//!
//! ```text
//!  41:      30887          0 PCI-MSIX-0000:00:04.0   1-edge      virtio3-rx
//! LOC:   22321895   23271810   Local timer interrupts
//! ```

use crate::procfs::{ParseError, fields, number};
use crate::util::text::parse_decimal;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupt {
    /// Number or name.
    pub kind: String,
    /// The chip, or the description if the kind has a name.
    pub info: String,
    /// Type at the chip and names of the devices; empty if the kind has a name.
    pub devices: String,
    /// Sum over all CPUs. The kernel counts in 32 bits for each of them.
    pub count: u64,
}

impl Interrupt {
    /// Whether it is of a device.
    pub fn is_numbered(&self) -> bool {
        parse_decimal(self.kind.as_bytes()).is_some()
    }
}

/// Number of CPUs that have a column, from the first line.
pub fn cpu_columns(header: &[u8]) -> usize {
    fields(header).count()
}

/// Parses the line `at`, which has `cpus` numbers: with hundreds of CPUs the file has megabytes. `None` for lines that describe
/// nothing, which node_exporter ignores too.
pub fn parse_line(at: usize, line: &[u8], cpus: usize) -> Result<Option<Interrupt>, ParseError> {
    let Some(colon) = line.iter().position(|&byte| byte == b':') else { return Ok(None) };
    let Some((kind, values)) = line.split_at_checked(colon) else { return Ok(None) };
    // On ARM a number may follow the colon without a space.
    let values = values.get(1..).unwrap_or_default();
    if fields(values).nth(cpus).is_none() {
        return Ok(None);
    }
    let mut fields = fields(values);
    let mut count = 0u64;
    for field in fields.by_ref().take(cpus) {
        count = count.wrapping_add(number(at, Some(field))?);
    }
    let kind = kind.trim_ascii();
    let info_words = if parse_decimal(kind).is_some() { 1 } else { usize::MAX };
    Ok(Some(Interrupt {
        kind: String::from_utf8_lossy(kind).into_owned(),
        info: joined(fields.by_ref().take(info_words)),
        devices: joined(fields),
        count,
    }))
}

fn joined<'a>(fields: impl Iterator<Item = &'a [u8]>) -> String {
    let words: Vec<_> = fields.map(String::from_utf8_lossy).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::lines;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"           CPU0       CPU1       
 26:          0         19  IO-APIC   4-edge      ttyS0
 41:      30887          2 PCI-MSIX-0000:00:04.0   1-edge      virtio3-rx
NMI:          0          0   Non-maskable interrupts
LOC:   22321895   23271810   Local timer interrupts
ERR:          0
MIS:          0
PIN:          0          0   Posted-interrupt notification event
";

    fn parse(text: &[u8]) -> Result<Vec<Interrupt>, ParseError> {
        let mut lines = lines(text);
        let cpus = lines.next().map_or(0, |(_, header)| cpu_columns(header));
        lines.filter_map(|(at, line)| parse_line(at, line, cpus).transpose()).collect()
    }

    fn interrupt(kind: &str, info: &str, devices: &str, count: u64) -> Interrupt {
        Interrupt { kind: kind.into(), info: info.into(), devices: devices.into(), count }
    }

    #[test]
    fn parses_a_real_sample() {
        let found = parse(REAL).unwrap();
        assert_eq!(found.len(), 5, "ERR and MIS are ignored");
        assert_eq!(found[0], interrupt("26", "IO-APIC", "4-edge ttyS0", 19));
        assert_eq!(found[1], interrupt("41", "PCI-MSIX-0000:00:04.0", "1-edge virtio3-rx", 30_889));
        assert_eq!(found[3], interrupt("LOC", "Local timer interrupts", "", 45_593_705));
        assert!(found[0].is_numbered() && !found[3].is_numbered());
    }

    #[test]
    fn parses_lines_of_arm() {
        let found = parse(b"       CPU0       CPU1\n 9:0 0 GICv3  25 Level vgic\nIPI0:1234 5678       Rescheduling interrupts\nErr:          0\n");
        let found = found.unwrap();
        assert_eq!(found[0], interrupt("9", "GICv3", "25 Level vgic", 0));
        assert_eq!(found[1], interrupt("IPI0", "Rescheduling interrupts", "", 6912));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn device_names_may_be_any_bytes() {
        let found = parse(b"CPU0\n 1: 5 chip edge a\xff:b\n").unwrap();
        assert_eq!(found, [interrupt("1", "chip", "edge a\u{fffd}:b", 5)]);
    }

    #[test]
    fn rejects_malformed_text() {
        assert_eq!(parse(b""), Ok(vec![]));
        assert_eq!(parse(b"CPU0\nunknown line\n"), Ok(vec![]));
        assert!(parse(b"CPU0 CPU1\n 1: 5 many chip edge\n").is_err());
        assert!(parse(b"CPU0\n 1: 18446744073709551616 chip edge\n").is_err());
        let wrapped = parse(b"CPU0 CPU1\n 1: 18446744073709551615 3 chip edge\n").unwrap();
        assert_eq!(wrapped[0].count, 2);
        parse_every_prefix(REAL, parse);
    }
}
