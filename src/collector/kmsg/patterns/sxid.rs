//! SXIDs of NVSwitches. Lines with the number and a severity count; those with data and details of the same error do not. Real lines:
//!
//! ```text
//! nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)
//! nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up
//! nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 20034, Severity 1 Engine instance 30 Sub-engine instance 00
//! nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 20034, Data {0x50610002, 0x10100030, …}
//! ```

use super::KernelEvent;
use crate::model::event::{EventKind, EventSeverity};
use crate::model::pci_address::PciAddress;

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let (number, rest) = text.strip_prefix("nvidia-nvswitch")?.split_once(": SXid (")?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    let (bracket, rest) = rest.split_once("): ")?;
    let switch = PciAddress::parse(bracket.strip_prefix("PCI:").unwrap_or(bracket))?;
    let (code, rest) = rest.split_once(", ")?;
    let severity = match rest.split(',').next()? {
        "Fatal" => EventSeverity::Critical,
        "Non-fatal" => EventSeverity::Warning,
        _ => return None,
    };
    let code = code.parse().ok()?;
    let event = KernelEvent::new(EventKind::Sxid, severity, switch.to_string());
    Some(KernelEvent { code: Some(code), ..event })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none, found};
    use super::*;

    const FATAL: &str =
        "nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up";

    #[test]
    fn finds_switch_and_severity() {
        let non_fatal = "nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)";
        assert_events(
            classify,
            &[
                (FATAL, "sxid", "critical", "0000:a9:00.0"),
                (non_fatal, "sxid", "warning", "0000:05:00.0"),
            ],
        );
        assert_eq!(found(classify, FATAL).unwrap().3, Some(20034));
    }

    #[test]
    fn ignores_details() {
        assert_none(
            classify,
            &[
                "nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 20034, Severity 1 Engine instance 30 Sub-engine instance 00",
                "nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 20034, Data {0x50610002, 0x10100030}",
                "nvidia-nvswitch0: Probing device 0000:a9:00.0, Vendor Id = 0x10de",
                "nvidia-nvswitchx: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
            ],
        );
    }
}
