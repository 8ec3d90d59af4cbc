//! XIDs of the NVIDIA driver.
//!
//! Format: `nv_report_error` in kernel-open and `NV_ERROR_LOG`; the brackets have a domain of 4 to 8 digits, bus and device without a
//! function, and in MIG mode two more words. Real lines:
//!
//! ```text
//! NVRM: Xid (PCI:0000:9b:00): 119, pid=2024380, name=nvidia-smi, Timeout after 6s of waiting for RPC response from GPU4 GSP! …
//! NVRM: Xid (PCI:0000:C1:00 GPU-I:05 GPU-CI:00): 94, pid=7194, name=python, Ch 0000000a
//! NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000 …)
//! NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)
//! NVRM: Xid (0000:03:00): 14, Channel 00000001
//! NVRM: GPU 0000:29:00.0: GPU has fallen off the bus.
//! ```
//!
//! `name=` is the name of a process, which any user can choose. It follows the number.

use super::{KernelEvent, word};
use crate::model::event::{EventKind, EventSeverity, RECOVERY_ACTION_CHANGED};
use crate::model::pci_address::PciAddress;

pub(super) const FALLEN_OFF_THE_BUS: u32 = 79;
/// XIDs of NVLink 5. Their texts contain `Fatal` or `Nonfatal`.
const NVLINK_5: std::ops::RangeInclusive<u32> = 144..=150;
/// The GPU or the node must be reset, according to NVIDIA's catalogue.
const RESET_REQUIRED: [u32; 20] =
    [46, 48, 61, 62, 64, 74, 79, 81, 95, 109, 110, 119, 120, 136, 140, 143, 151, 155, 156, 158];
/// The driver has handled them, or they are informational.
const INFORMATIONAL: [u32; 6] = [63, 106, 107, 162, 164, 165];

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let rest = text.strip_prefix("NVRM: ")?;
    match rest.strip_prefix("Xid (") {
        Some(rest) => xid(rest),
        None => fallen_off_the_bus(rest),
    }
}

fn xid(rest: &str) -> Option<KernelEvent> {
    let (bracket, rest) = rest.split_once("): ")?;
    let address = bracket.strip_prefix("PCI:").unwrap_or(bracket).split(' ').next()?;
    let gpu = PciAddress::parse(address)?;
    let (code, message) = rest.split_once(',')?;
    let is_number = code.bytes().all(|byte| byte.is_ascii_digit());
    let code = is_number.then(|| code.parse().ok()).flatten()?;
    // The text says which action it is.
    let class = if code == RECOVERY_ACTION_CHANGED { "" } else { "xid" };
    Some(KernelEvent { class, ..event(gpu, code, severity(code, message)) })
}

fn event(gpu: PciAddress, code: u32, severity: EventSeverity) -> KernelEvent {
    let event = KernelEvent::new(EventKind::Xid, severity, gpu.to_string());
    KernelEvent { code: Some(code), gpu: Some(gpu), ..event }
}

fn severity(code: u32, message: &str) -> EventSeverity {
    let is_critical = match code {
        RECOVERY_ACTION_CHANGED if new_recovery_action(message) == Some(0) => {
            return EventSeverity::Info;
        }
        RECOVERY_ACTION_CHANGED => true,
        code if NVLINK_5.contains(&code) => {
            message.split_ascii_whitespace().nth(1).is_some_and(|word| word == "Fatal")
        }
        code if INFORMATIONAL.contains(&code) => return EventSeverity::Info,
        code => RESET_REQUIRED.contains(&code),
    };
    if is_critical { EventSeverity::Critical } else { EventSeverity::Warning }
}

/// The number of the action in `GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)`.
fn new_recovery_action(message: &str) -> Option<u32> {
    let (_, action) =
        message.split_once("recovery action changed from ")?.1.split_once(" to 0x")?;
    u32::from_str_radix(word(action), 16).ok()
}

/// There are three forms. That without an address is the last line of a message of three lines, which syslog(2) returns one by one.
fn fallen_off_the_bus(rest: &str) -> Option<KernelEvent> {
    const WORDS: &str = "fallen off the bus";
    if !rest.contains(WORDS) {
        return None;
    }
    let critical = EventSeverity::Critical;
    if rest.starts_with(WORDS) {
        let event = KernelEvent::new(EventKind::Xid, critical, "");
        return Some(KernelEvent { code: Some(FALLEN_OFF_THE_BUS), class: "bus", ..event });
    }
    let named = rest.strip_prefix("The NVIDIA GPU ").or_else(|| rest.strip_prefix("GPU "))?;
    // In a message of three lines, an escaped line end follows.
    let address = named.split([' ', '\\']).next()?;
    let gpu = PciAddress::parse(address.strip_suffix(':').unwrap_or(address))?;
    Some(KernelEvent { class: "bus", ..event(gpu, FALLEN_OFF_THE_BUS, critical) })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_none, found};
    use super::*;

    #[test]
    fn finds_gpu_and_number() {
        for (line, severity, gpu, code) in [
            (
                "NVRM: Xid (PCI:0000:9b:00): 119, pid=2024380, name=nvidia-smi, Timeout after 6s of waiting for RPC response from GPU4 GSP! Expected function 103 (GSP_RM_ALLOC) (0x2081 0x4).",
                "critical",
                "0000:9b:00.0",
                119,
            ),
            (
                "NVRM: Xid (PCI:0000:05:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
                "critical",
                "0000:05:00.0",
                79,
            ),
            (
                "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.",
                "critical",
                "0000:01:00.0",
                79,
            ),
            (
                "NVRM: Xid (PCI:0000:C1:00 GPU-I:05 GPU-CI:00): 94, pid=7194, name=python, Ch 0000000a",
                "warning",
                "0000:c1:00.0",
                94,
            ),
            (
                "NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000 0x00000000 0x00000000 0x00000000 0x00000000)",
                "critical",
                "0009:01:00.0",
                149,
            ),
            (
                "NVRM: Xid (PCI:0009:01:00): 145, RLW_REMAP  Nonfatal   XC0 i0 Link 01 (0x021425c6)",
                "warning",
                "0009:01:00.0",
                145,
            ),
            (
                "NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)",
                "critical",
                "0009:01:00.0",
                154,
            ),
            (
                "NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action changed from 0x4 (Drain and Reset) to 0x0 (None)",
                "info",
                "0009:01:00.0",
                154,
            ),
            ("NVRM: Xid (0000:03:00): 14, Channel 00000001", "warning", "0000:03:00.0", 14),
            ("NVRM: Xid (PCI:0000:03:00): 63, Row Remapper", "info", "0000:03:00.0", 63),
            ("NVRM: GPU 0000:29:00.0: GPU has fallen off the bus.", "critical", "0000:29:00.0", 79),
            ("NVRM: GPU 18:00.0: GPU has fallen off the bus.", "critical", "0000:18:00.0", 79),
            (
                r"NVRM: The NVIDIA GPU 0000:18:00.0\x0aNVRM: (PCI ID: 10de:2901) installed in this system has\x0aNVRM: fallen off the bus and is not responding to commands.",
                "critical",
                "0000:18:00.0",
                79,
            ),
            ("NVRM: fallen off the bus and is not responding to commands.", "critical", "", 79),
        ] {
            let expected = Some(("xid", severity, gpu.to_owned(), Some(code)));
            assert_eq!(found(classify, line), expected, "{line}");
            assert_none(classify, &[&format!("usb 1-1: Product: {line}")]);
        }
    }

    #[test]
    fn ignores_other_lines_of_the_driver() {
        assert_none(
            classify,
            &[
                "NVRM: GPU at PCI:0000:9b:00: GPU-509665ad-b600-ac93-3616-d754b23d636d",
                "NVRM: GPU Board Serial Number: 1654922007154",
                "NVRM: Xid (PCI:0000:9b:00): , pid=1",
                "NVRM: Xid (PCI:0000:9b:00): 79",
                "NVRM: Xid (PCI:0000:9b:00): +9, x",
                "NVRM: Xid (PCI:0000:9b:00): 99999999999, x",
                "NVRM: Xid (PCI:zz:9b:00): 79, x",
                "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  550.54.14",
                "Xid (PCI:0000:9b:00): 79, GPU has fallen off the bus.",
                "NVRM: The NVIDIA GPU 0000:18:00.0 (PCI ID: 10de:2901)",
            ],
        );
    }
}
