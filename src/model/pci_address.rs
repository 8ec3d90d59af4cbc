//! The address of a PCI device. Its text has several forms: NVML has `00000000:9B:00.0`, sysfs `0000:9b:00.0`, NVIDIA's kernel module
//! `0000:9b:00` and, in old versions, `9b:00.0`. They are compared as numbers.
#![deny(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::fmt;

/// Without the function: the functions of a GPU are one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciAddress {
    pub domain: u32,
    pub bus: u8,
    pub device: u8,
}

impl PciAddress {
    /// Parses `[DOMAIN:]BUS:DEVICE[.FUNCTION]`, in hexadecimal digits of either case.
    pub fn parse(text: &str) -> Option<Self> {
        let (text, function) = match text.split_once('.') {
            Some((text, function)) => (text, Some(function)),
            None => (text, None),
        };
        if let Some(function) = function {
            hex(function, 1).filter(|number| *number <= 7)?;
        }
        let mut parts = text.rsplit(':');
        let device = hex(parts.next()?, 2).filter(|number| *number <= 31)?;
        let bus = hex(parts.next()?, 2)?;
        let domain = parts.next().map_or(Some(0), |domain| hex(domain, 8))?;
        if parts.next().is_some() {
            return None;
        }
        Some(Self { domain, bus: u8::try_from(bus).ok()?, device: u8::try_from(device).ok()? })
    }
}

fn hex(text: &str, max_digits: usize) -> Option<u32> {
    let is_hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_hex && text.len() <= max_digits).then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// As in sysfs, with function 0.
impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.0", self.domain, self.bus, self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_one_address_are_equal() {
        let address = PciAddress { domain: 0, bus: 0x9b, device: 0 };
        for text in ["00000000:9B:00.0", "0000:9b:00.0", "0000:9b:00", "9b:00.0", "9B:00"] {
            assert_eq!(PciAddress::parse(text), Some(address), "{text}");
        }
        assert_eq!(address.to_string(), "0000:9b:00.0");
        let far = PciAddress::parse("10009:01:00.0").unwrap();
        assert_eq!((far.domain, far.to_string()), (0x1_0009, "10009:01:00.0".to_owned()));
    }

    #[test]
    fn rejects_other_texts() {
        for text in
            ["", ":", "9b", "0:0:0:0", "0000:9b:20", "0000:9b:00.8", "0000:19b:00", "g:00", "+1:00"]
        {
            assert_eq!(PciAddress::parse(text), None, "{text}");
        }
    }
}
