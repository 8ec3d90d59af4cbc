//! Errors of block devices: block/blk-mq.c, fs/buffer.c, block/blk-core.c. Real lines:
//!
//! ```text
//! I/O error, dev nvme0n1, sector 32545872 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2
//! blk_update_request: I/O error, dev sda, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0
//! critical medium error, dev nvme0n1, sector 0 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2
//! Buffer I/O error on dev dm-0, logical block 0, async page read
//! attempt to access beyond end of device
//! ```

use super::{KernelEvent, word};
use crate::model::event::{EventKind, EventSeverity};

/// Drives whose medium may be absent or unreadable.
const REMOVABLE: [&str; 2] = ["sr", "fd"];
/// What fails, in `blk_errors` of the kernel.
const FAILURES: [&str; 6] = [
    "I/O",
    "critical medium",
    "critical target",
    "critical nexus",
    "critical space allocation",
    "protection",
];

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let event = |device: &str, severity, class| {
        let is_removable = REMOVABLE.iter().any(|name| device.starts_with(name));
        (!is_removable).then(|| KernelEvent::new(EventKind::DiskIo, severity, device).class(class))
    };
    if let Some(rest) = text.strip_prefix("Buffer I/O error on dev ") {
        let device = word(rest);
        return rest
            .contains(", logical block ")
            .then(|| event(device, EventSeverity::Warning, "buffer"))?;
    }
    if text.starts_with("attempt to access beyond end of device") {
        return event("", EventSeverity::Warning, "beyond end");
    }
    let rest = ["blk_update_request: ", "print_req_error: "]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    let (failure, rest) = rest.split_once(" error, dev ")?;
    FAILURES.contains(&failure).then_some(())?;
    rest.contains(", sector ").then_some(())?;
    let severity = match failure {
        "critical medium" => EventSeverity::Critical,
        _ => EventSeverity::Warning,
    };
    event(word(rest), severity, "error")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_device() {
        let (kind, warning) = ("disk_io", "warning");
        assert_events(
            classify,
            &[
                (
                    "I/O error, dev nvme0n1, sector 32545872 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2",
                    kind,
                    warning,
                    "nvme0n1",
                ),
                (
                    "blk_update_request: I/O error, dev sda, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0",
                    kind,
                    warning,
                    "sda",
                ),
                ("print_req_error: I/O error, dev sdb, sector 0", kind, warning, "sdb"),
                (
                    "critical medium error, dev nvme0n1, sector 0 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2",
                    kind,
                    "critical",
                    "nvme0n1",
                ),
                (
                    "Buffer I/O error on dev dm-0, logical block 0, async page read",
                    kind,
                    warning,
                    "dm-0",
                ),
                ("attempt to access beyond end of device", kind, warning, ""),
            ],
        );
    }

    #[test]
    fn ignores_removable_media_and_other_lines() {
        assert_none(
            classify,
            &[
                "I/O error, dev sr0, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2",
                "blk_update_request: I/O error, dev fd0, sector 0 op 0x0:(READ)",
                "Buffer I/O error on dev sr0, logical block 0, async page read",
                "sd 0:0:0:0: [sda] Attached SCSI disk",
                "unknown error, dev sda, sector 0",
                "I/O error, dev sda",
            ],
        );
    }
}
