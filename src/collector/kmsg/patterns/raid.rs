//! Disks that fail in a software RAID: drivers/md. Real lines:
//!
//! ```text
//! md/raid1:md0: Disk failure on nvme0n1p1, disabling device.
//! md/raid0:md0: Disk failure on nvme0n1 detected, failing array.
//! ```

use super::{KernelEvent, word};
use crate::model::event::{EventKind, EventSeverity};

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let (_level, rest) = text.strip_prefix("md/raid")?.split_once(':')?;
    let (array, message) = rest.split_once(": ")?;
    let disk = word(message.strip_prefix("Disk failure on ")?);
    // RAID levels 1 and higher continue without the disk.
    let is_lost = message.contains("failing array");
    let severity = if is_lost { EventSeverity::Critical } else { EventSeverity::Warning };
    Some(KernelEvent::new(EventKind::Raid, severity, format!("{array} {disk}")))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_array_and_disk() {
        assert_events(
            classify,
            &[
                (
                    "md/raid1:md0: Disk failure on nvme0n1p1, disabling device.",
                    "raid",
                    "warning",
                    "md0 nvme0n1p1",
                ),
                (
                    "md/raid0:md0: Disk failure on nvme0n1 detected, failing array.",
                    "raid",
                    "critical",
                    "md0 nvme0n1",
                ),
            ],
        );
    }

    #[test]
    fn ignores_other_lines() {
        assert_none(
            classify,
            &[
                "md/raid1:md0: Operation continuing on 1 devices.",
                "md/raid1:md0: active with 2 out of 2 mirrors",
                "md: data-check of RAID array md0",
            ],
        );
    }
}
