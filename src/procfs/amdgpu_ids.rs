//! `amdgpu.ids`: product names of AMD GPUs.
//!
//! Format: described in the first lines of the file, which libdrm installs: device id and revision in hexadecimal, and the name,
//! with a tab after each comma. Comments come first, then a version, then one GPU a line. Two real lines:
//!
//! ```text
//! 1.0.0
//! 744C, C8, AMD Radeon RX 7900 XTX
//! ```

use crate::procfs::lines;

/// The name of the GPU with this PCI device id and revision, if it is listed.
pub fn parse_name(text: &[u8], device: u16, revision: u8) -> Option<String> {
    lines(text).find_map(|(_, line)| {
        let mut fields = line.splitn(3, |&byte| byte == b',').map(<[u8]>::trim_ascii);
        let listed = (hexadecimal(fields.next()?)?, hexadecimal(fields.next()?)?);
        let name = String::from_utf8_lossy(fields.next()?).into_owned();
        (listed == (u32::from(device), u32::from(revision)) && !name.is_empty()).then_some(name)
    })
}

fn hexadecimal(field: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(field).ok()?;
    u32::from_str_radix(digits, 16).ok().filter(|_| field.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const LIST: &[u8] = b"# List of AMDGPU IDs
#
# Syntax:
# device_id,	revision_id,	product_name        <-- single tab after comma

1.0.0
744C,	C8,	AMD Radeon RX 7900 XTX
744C,	CC,	AMD Radeon RX 7900 XT
7480,	00,
74A1,	00,	AMD Instinct MI300X, by the dozen
";

    #[test]
    fn finds_name_by_device_and_revision() {
        let name = |device, revision| parse_name(LIST, device, revision);
        assert_eq!(name(0x744c, 0xcc).as_deref(), Some("AMD Radeon RX 7900 XT"));
        assert_eq!(name(0x74a1, 0).as_deref(), Some("AMD Instinct MI300X, by the dozen"));
        assert_eq!(name(0x744c, 0x01), None, "another revision");
        assert_eq!(name(0x7480, 0), None, "no name");
    }

    #[test]
    fn ignores_malformed_lines() {
        for bad in [&b""[..], b"744C", b"744C,C8", b"+744C,C8,x", b"x,C8,x", &[b'9'; 400]] {
            assert_eq!(parse_name(bad, 0x744c, 0xc8), None);
        }
        parse_every_prefix(LIST, |text| parse_name(text, 0x74a1, 0).ok_or(()));
    }
}
