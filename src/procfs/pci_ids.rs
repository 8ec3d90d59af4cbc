//! `pci.ids`: names of PCI devices, from the packages hwdata or pciutils.
//!
//! Format: described in the first lines of the file: a vendor, its devices after a tab, their subsystems after two. Real lines, with tabs at their
//! beginning:
//!
//! ```text
//! 8086  Intel Corporation
//!     56c0  DG2 [Data Center GPU Flex 170]
//!         8086 4905  Data Center GPU Flex 170
//! ```

/// Finds the name of a device in the lines of the file.
#[derive(Debug)]
pub struct NameSearch {
    vendor: [u8; 4],
    device: [u8; 4],
    is_vendor: bool,
    /// The product name in brackets, or the whole name if there is none.
    pub found: Option<String>,
}

impl NameSearch {
    pub fn new(vendor: u16, device: u16) -> Self {
        let digits = |id: u16| {
            let digits = format!("{id:04x}");
            digits.as_bytes().first_chunk().copied().unwrap_or_default()
        };
        Self { vendor: digits(vendor), device: digits(device), is_vendor: false, found: None }
    }

    pub fn on_line(&mut self, line: &[u8]) {
        match line.strip_prefix(b"\t") {
            Some(device) if self.is_vendor && self.found.is_none() => {
                self.found = device.strip_prefix(&self.device).and_then(product_name);
            }
            Some(_) => {}
            None => self.is_vendor = line.starts_with(&self.vendor),
        }
    }
}

fn product_name(name: &[u8]) -> Option<String> {
    let name = str::from_utf8(name).ok()?.trim_ascii();
    let in_brackets = name.split_once('[').and_then(|(_, rest)| rest.strip_suffix(']'));
    Some(in_brackets.unwrap_or(name).to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"# Comment
8085  Another vendor
	56c0  Not this
8086  Intel Corporation
	56a0  DG2 [Arc A770]
	56c0  DG2 [Data Center GPU Flex 170]
		8086 4905  Data Center GPU Flex 170
	0bd0  Ponte Vecchio
	1234
ffff  Illegal Vendor ID
	56c1  Not this
C 03  Display controller
	00  VGA compatible controller
";

    fn name(device: u16, text: &[u8]) -> Option<String> {
        let mut search = NameSearch::new(0x8086, device);
        text.split(|&byte| byte == b'\n').for_each(|line| search.on_line(line));
        search.found
    }

    #[test]
    fn finds_product_name_of_device() {
        assert_eq!(name(0x56c0, LIST).as_deref(), Some("Data Center GPU Flex 170"));
        assert_eq!(name(0x0bd0, LIST).as_deref(), Some("Ponte Vecchio"));
        for unlisted in [0x56c1, 0x1234, 0x4905] {
            assert_eq!(name(unlisted, LIST), None, "{unlisted:x}");
        }
    }

    #[test]
    fn ignores_malformed_lines() {
        for bad in [&b""[..], b"8086\n\t56c0 [", b"8086\n\t56c0 \xff", b"\t56c0 x", &[b'9'; 400]] {
            assert!(name(0x56c0, bad).is_none_or(|name| name == "["));
        }
        crate::procfs::testing::parse_every_prefix(LIST, |text| name(0x56c0, text).ok_or(()));
    }
}
