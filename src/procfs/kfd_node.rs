//! `properties` of a node in `/sys/class/kfd/kfd/topology/nodes`: where a GPU of the compute driver is on the PCI bus.
//!
//! Format: kernel `drivers/gpu/drm/amd/amdkfd/kfd_topology.c`, `node_show`: a name and a number on each line. Lines of an
//! MI300X at `0000:c3:00.0`, among many others:
//!
//! ```text
//! vendor_id 4098
//! location_id 49920
//! domain 0
//! ```

use crate::procfs::{ParseError, fields, lines, number};

/// Returns the domain, bus and device of the PCI address as the kernel formats them: `0000:c3:00`. Partitions of a GPU
/// have numbers of their own in the place of the function, so that is omitted. `None` for a processor.
pub fn parse_pci_slot(text: &[u8]) -> Result<Option<String>, ParseError> {
    let (mut domain, mut location) = (0, 0);
    for (at, line) in lines(text) {
        let mut fields = fields(line);
        match fields.next() {
            Some(b"domain") => domain = number(at, fields.next())?,
            Some(b"location_id") => location = number(at, fields.next())?,
            _ => continue,
        }
    }
    let (bus, device) = (location >> 8 & 0xff, location >> 3 & 0x1f);
    Ok((location != 0).then(|| format!("{domain:04x}:{bus:02x}:{device:02x}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const GPU: &[u8] =
        b"cpu_cores_count 0\nsimd_count 1216\nvendor_id 4098\nlocation_id 49920\ndomain 0\n";

    #[test]
    fn formats_slot_like_the_kernel() {
        let slot = |text: &[u8]| parse_pci_slot(text).unwrap();
        assert_eq!(slot(GPU).as_deref(), Some("0000:c3:00"));
        let partition = b"location_id 49923\ndomain 2\n";
        assert_eq!(slot(partition).as_deref(), Some("0002:c3:00"));
        assert_eq!(slot(b"cpu_cores_count 96\nlocation_id 0\ndomain 0\n"), None);
        assert_eq!(slot(b""), None);
    }

    #[test]
    fn rejects_malformed_numbers() {
        for bad in
            ["location_id\n", "location_id x\n", "domain -1\n", "domain 99999999999999999999"]
        {
            assert!(parse_pci_slot(bad.as_bytes()).is_err(), "{bad}");
        }
        parse_every_prefix(GPU, parse_pci_slot);
    }
}
