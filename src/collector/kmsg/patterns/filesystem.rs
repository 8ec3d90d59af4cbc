//! Filesystems with errors, or remounted read-only for them. Real lines:
//!
//! ```text
//! EXT4-fs (md0): Remounting filesystem read-only
//! EXT4-fs error (device sda1): ext4_lookup:1855: inode #2: comm ls: deleted inode referenced: 12
//! EXT4-fs (dm-0): I/O error while writing superblock
//! XFS (nvme0n1p1): Corruption detected. Unmount and run xfs_repair
//! XFS (dm-1): log I/O error -5
//! XFS (dm-1): Filesystem has been shut down due to log error (0x2).
//! BTRFS error (device sda1): bdev /dev/sda1 errs: wr 0, rd 1, flush 0, corrupt 0, gen 0
//! ```

use super::{KernelEvent, word};
use crate::model::event::{EventKind, EventSeverity};

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let (family, rest) = text.split_once(" (")?;
    let (device, message) = rest.split_once("): ")?;
    let (severity, class) = match family {
        "EXT4-fs" => ext4(message)?,
        "XFS" => xfs(message)?,
        "EXT4-fs error" | "BTRFS critical" => (EventSeverity::Critical, "error"),
        "BTRFS error" => (EventSeverity::Warning, "error"),
        _ => return None,
    };
    let device = device.strip_prefix("device ").unwrap_or(device);
    Some(KernelEvent::new(EventKind::FileSystem, severity, word(device)).class(class))
}

fn ext4(message: &str) -> Option<(EventSeverity, &'static str)> {
    if message.starts_with("Remounting filesystem read-only") {
        return Some((EventSeverity::Critical, "read-only"));
    }
    let is_superblock = message.starts_with("I/O error while writing superblock");
    is_superblock.then_some((EventSeverity::Critical, "superblock"))
}

fn xfs(message: &str) -> Option<(EventSeverity, &'static str)> {
    let class = if message.starts_with("Corruption ") {
        "corruption"
    } else if message.starts_with("log I/O error") || message.starts_with("metadata I/O error") {
        "I/O"
    } else if message.starts_with("Filesystem has been shut down due to ") {
        "shut down"
    } else {
        return None;
    };
    Some((EventSeverity::Critical, class))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_device_of_failed_filesystem() {
        let (kind, critical) = ("filesystem", "critical");
        assert_events(
            classify,
            &[
                ("EXT4-fs (md0): Remounting filesystem read-only", kind, critical, "md0"),
                (
                    "EXT4-fs error (device sda1): ext4_lookup:1855: inode #2: comm ls: deleted inode referenced: 12",
                    kind,
                    critical,
                    "sda1",
                ),
                ("EXT4-fs (dm-0): I/O error while writing superblock", kind, critical, "dm-0"),
                (
                    "XFS (nvme0n1p1): Corruption detected. Unmount and run xfs_repair",
                    kind,
                    critical,
                    "nvme0n1p1",
                ),
                ("XFS (dm-1): log I/O error -5", kind, critical, "dm-1"),
                (
                    "XFS (dm-1): Filesystem has been shut down due to log error (0x2).",
                    kind,
                    critical,
                    "dm-1",
                ),
                (
                    "BTRFS error (device sda1 state EA): bdev /dev/sda1 errs: wr 0, rd 1, flush 0, corrupt 0, gen 0",
                    kind,
                    "warning",
                    "sda1",
                ),
                ("BTRFS critical (device sda1): corrupt leaf", kind, critical, "sda1"),
            ],
        );
    }

    #[test]
    fn ignores_mounts_and_warnings() {
        assert_none(
            classify,
            &[
                "EXT4-fs (loop0): unmounting filesystem 22069232-626c-4226-b4bc-2ce433a24b2f.",
                "EXT4-fs (sda1): mounted filesystem with ordered data mode. Opts: (null)",
                "EXT4-fs (sda1): re-mounted. Opts: errors=remount-ro",
                "EXT4-fs warning (device sda1): ext4_dx_add_entry: Directory index full!",
                "XFS (sdb1): Ending clean mount",
                "BTRFS info (device sda1): using crc32c",
                "BTRFS warning (device sda1): csum failed",
            ],
        );
    }
}
