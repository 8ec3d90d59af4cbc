//! XIDs of the kernel log. NVML does not report 79, 119 and 120. The others are in both sources, each of which may miss some, so the larger
//! of the two counts is shown.

use crate::model::gpu::{Gpu, Vendor, Xid};
use crate::model::pci_address::PciAddress;

/// GPUs and numbers that are counted. A machine has fewer.
const MAX_COUNTED: usize = 1024;

#[derive(Default)]
pub(super) struct KernelXids(Vec<(PciAddress, Xid)>);

impl KernelXids {
    pub(super) fn count(&mut self, gpu: PciAddress, code: u32, unix_seconds: u64) {
        let code = u64::from(code);
        let known = self.0.iter_mut().find(|(of, xid)| (*of, xid.code) == (gpu, code));
        if let Some((_, xid)) = known {
            xid.count = xid.count.saturating_add(1);
            xid.last_unix_seconds = xid.last_unix_seconds.max(unix_seconds);
        } else if self.0.len() < MAX_COUNTED {
            self.0.push((gpu, Xid { code, count: 1, last_unix_seconds: unix_seconds }));
        }
    }

    /// Adds what NVML did not report.
    pub(super) fn merge_into(&self, gpu: &mut Gpu) {
        if self.0.is_empty() || gpu.vendor != Vendor::Nvidia {
            return;
        }
        let Some(address) = gpu.pci_address.as_deref().and_then(PciAddress::parse) else { return };
        for (_, xid) in self.0.iter().filter(|(of, _)| *of == address) {
            match gpu.xids.iter_mut().find(|known| known.code == xid.code) {
                Some(known) => {
                    known.count = known.count.max(xid.count);
                    known.last_unix_seconds = known.last_unix_seconds.max(xid.last_unix_seconds);
                }
                None => gpu.xids.push(*xid),
            }
        }
        gpu.xids.sort_by_key(|xid| xid.code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xid(code: u64, count: u64, last_unix_seconds: u64) -> Xid {
        Xid { code, count, last_unix_seconds }
    }

    fn address(text: &str) -> PciAddress {
        PciAddress::parse(text).unwrap()
    }

    #[test]
    fn counts_what_nvml_does_not_report_and_nothing_twice() {
        let mut xids = KernelXids::default();
        for (code, at) in [(79, 5), (94, 6), (94, 7), (31, 8)] {
            xids.count(address("0000:9b:00"), code, at);
        }
        xids.count(address("0000:9c:00"), 119, 9);
        let mut gpu = Gpu {
            pci_address: Some("00000000:9B:00.0".into()),
            xids: vec![xid(31, 3, 7), xid(94, 1, 6)],
            ..Gpu::default()
        };
        xids.merge_into(&mut gpu);
        assert_eq!(gpu.xids, [xid(31, 3, 8), xid(79, 1, 5), xid(94, 2, 7)]);
        let mut other = Gpu { pci_address: Some("0000:03:00.0".into()), ..Gpu::default() };
        xids.merge_into(&mut other);
        assert_eq!(other.xids, []);
    }

    #[test]
    fn number_of_counted_xids_is_bounded() {
        let mut xids = KernelXids::default();
        for code in 0..MAX_COUNTED as u32 + 10 {
            xids.count(address("0000:9b:00"), code, 1);
        }
        xids.count(address("0000:9b:00"), 0, 2);
        assert_eq!(xids.0.len(), MAX_COUNTED);
        assert_eq!(xids.0[0].1.count, 2);
    }
}
