//! PCIe errors and DMA faults: drivers/pci/pcie/aer.c, err.c, drivers/iommu. Each error has a line of the device that reports it; those
//! of the root port and the names of its bits are left out. Real lines:
//!
//! ```text
//! pcieport 0000:00:1c.1: AER: Corrected error received: 0000:00:1c.1
//! pcieport 0000:00:1c.1: PCIe Bus Error: severity=Corrected, type=Data Link Layer, (Transmitter ID)
//! pcieport 0000:00:1c.1:   [ 6] BadTLP
//! nvidia 0000:03:00.0: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, (Requester ID)
//! nvidia 0000:03:00.0: AER: can't recover (no error_detected callback)
//! DMAR: [DMA Read NO_PASID] Request device [03:00.0] fault addr 0x7f000000 [fault reason 0x06] PTE Read access is not set
//! AMD-Vi: Event logged [IO_PAGE_FAULT device=0a:00.0 domain=0x001d address=0x000000000637c000 flags=0x0000]
//! nvme 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000f address=0xfffffff0 flags=0x0000]
//! ```

use super::{KernelEvent, word};
use crate::model::event::{EventKind, EventSeverity};
use crate::model::pci_address::PciAddress;

const AMD_FAULT: &str = "AMD-Vi: Event logged [IO_PAGE_FAULT ";

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    if let Some(rest) = text.strip_prefix("DMAR: [DMA ") {
        let (_, rest) = rest.split_once("Request device [")?;
        rest.contains(" fault addr ").then_some(())?;
        let device = rest.split(']').next().unwrap_or_default();
        return Some(fault(device));
    }
    if let Some(rest) = text.strip_prefix(AMD_FAULT) {
        return Some(fault(rest.strip_prefix("device=")?.split(' ').next()?));
    }
    let (device, message) = device_and_message(text)?;
    if message.starts_with(AMD_FAULT) {
        return Some(fault(device));
    }
    if message.starts_with("AER: can't recover") {
        let event = KernelEvent::new(EventKind::Pcie, EventSeverity::Critical, device);
        return Some(event.class("unrecovered"));
    }
    let message = message.strip_prefix("AER: ").unwrap_or(message);
    let severity = message.strip_prefix("PCIe Bus Error: severity=")?;
    let severity = match severity.split(", type=").next()? {
        // From Linux 6.10 on "Correctable".
        "Corrected" | "Correctable" => EventSeverity::Info,
        "Uncorrected (Non-Fatal)" | "Uncorrectable (Non-Fatal)" => EventSeverity::Warning,
        "Uncorrected (Fatal)" | "Uncorrectable (Fatal)" => EventSeverity::Critical,
        _ => return None,
    };
    Some(KernelEvent::new(EventKind::Pcie, severity, device))
}

fn fault(device: &str) -> KernelEvent {
    KernelEvent::new(EventKind::Iommu, EventSeverity::Warning, device)
}

/// The address and the message of `DRIVER ADDRESS: MESSAGE`.
fn device_and_message(text: &str) -> Option<(&str, &str)> {
    let (driver, rest) = text.split_once(' ')?;
    let (device, message) = rest.split_once(": ")?;
    (driver == word(driver)).then_some(())?;
    PciAddress::parse(device).map(|_| (device, message))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_device_and_severity() {
        let gpu = "0000:03:00.0";
        assert_events(
            classify,
            &[
                (
                    "pcieport 0000:00:1c.1: PCIe Bus Error: severity=Corrected, type=Data Link Layer, (Transmitter ID)",
                    "pcie",
                    "info",
                    "0000:00:1c.1",
                ),
                (
                    "nvidia 0000:03:00.0: AER: PCIe Bus Error: severity=Uncorrected (Non-Fatal), type=Transaction Layer, (Requester ID)",
                    "pcie",
                    "warning",
                    gpu,
                ),
                (
                    "nvidia 0000:03:00.0: PCIe Bus Error: severity=Uncorrectable (Fatal), type=Transaction Layer, (Requester ID)",
                    "pcie",
                    "critical",
                    gpu,
                ),
                (
                    "nvidia 0000:03:00.0: AER: can't recover (no error_detected callback)",
                    "pcie",
                    "critical",
                    gpu,
                ),
                (
                    "DMAR: [DMA Read NO_PASID] Request device [03:00.0] fault addr 0x7f000000 [fault reason 0x06] PTE Read access is not set",
                    "iommu",
                    "warning",
                    "03:00.0",
                ),
                (
                    "AMD-Vi: Event logged [IO_PAGE_FAULT device=0a:00.0 domain=0x001d address=0x000000000637c000 flags=0x0000]",
                    "iommu",
                    "warning",
                    "0a:00.0",
                ),
                (
                    "nvme 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000f address=0xfffffff0 flags=0x0000]",
                    "iommu",
                    "warning",
                    "0000:01:00.0",
                ),
            ],
        );
    }

    #[test]
    fn ignores_other_lines_of_an_error() {
        assert_none(
            classify,
            &[
                "pcieport 0000:00:1c.1: AER: Corrected error received: 0000:00:1c.1",
                "pcieport 0000:00:1c.1:   [ 6] BadTLP",
                "pcieport 0000:00:1c.1:   device [8086:a111] error status/mask=00000040/00002000",
                "pcieport 0000:00:01.0: AER: enabled with IRQ 122",
                "DMAR: DRHD: handling fault status reg 2",
                "DMAR: IOMMU enabled",
                "AMD-Vi: Interrupt remapping enabled",
                "x y: PCIe Bus Error: severity=Corrected, type=Data Link Layer, (Transmitter ID)",
            ],
        );
    }
}
