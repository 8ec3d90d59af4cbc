//! NVMe controllers: drivers/nvme/host. Real lines:
//!
//! ```text
//! nvme nvme4: I/O tag 22 (2016) opcode 0x2 (Admin Cmd) QID 0 timeout, reset controller
//! nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0x10
//! nvme nvme4: Disabling device after reset failure: -19
//! block nvme0n1: no available path - failing I/O
//! ```

use super::{KernelEvent, word};
use crate::model::event::{EventKind, EventSeverity};

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let (device, message) = match text.strip_prefix("block ") {
        Some(rest) => rest.split_once(": ")?,
        None => text.strip_prefix("nvme ")?.split_once(": ")?,
    };
    if !device.starts_with("nvme") || device != word(device) {
        return None;
    }
    let (severity, class) = if message.starts_with("I/O ") && message.contains(" timeout, ") {
        (EventSeverity::Warning, "timeout")
    } else if message.starts_with("controller is down; will reset") {
        (EventSeverity::Warning, "down")
    } else if message.starts_with("Disabling device after reset failure")
        || message.starts_with("Removing after probe failure")
    {
        (EventSeverity::Critical, "disabled")
    } else if message.starts_with("no available path - failing I/O") {
        (EventSeverity::Critical, "no path")
    } else {
        return None;
    };
    Some(KernelEvent::new(EventKind::Nvme, severity, device).class(class))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_controller() {
        let (kind, warning, critical) = ("nvme", "warning", "critical");
        assert_events(
            classify,
            &[
                (
                    "nvme nvme4: I/O tag 22 (2016) opcode 0x2 (Admin Cmd) QID 0 timeout, reset controller",
                    kind,
                    warning,
                    "nvme4",
                ),
                ("nvme nvme1: I/O 840 QID 31 timeout, aborting", kind, warning, "nvme1"),
                (
                    "nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0x10",
                    kind,
                    warning,
                    "nvme0",
                ),
                ("nvme nvme4: Disabling device after reset failure: -19", kind, critical, "nvme4"),
                ("block nvme0n1: no available path - failing I/O", kind, critical, "nvme0n1"),
            ],
        );
    }

    #[test]
    fn ignores_start_of_driver() {
        assert_none(
            classify,
            &[
                "nvme nvme0: pci function 0000:01:00.0",
                "nvme nvme0: 16/0/0 default/read/poll queues",
                "nvme nvme0: allocated 64 MiB host memory buffer.",
                "block sda: no available path - failing I/O",
                "nvme 0000:01:00.0: platform quirk: setting simple suspend",
            ],
        );
    }
}
