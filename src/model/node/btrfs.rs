//! Devices of Btrfs filesystems.

use crate::procfs::btrfs_error_stats::BtrfsErrorStats;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Btrfs {
    pub devices: Vec<BtrfsDevice>,
    /// Number of filesystems and devices that are not read because there are too many.
    pub truncated: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BtrfsDevice {
    /// Of the filesystem.
    pub uuid: String,
    /// Number of the device in its filesystem, as `btrfs filesystem show` prints it.
    pub id: u64,
    /// Name of the block device; `None` if there are several, because sysfs does not tell which has the number.
    pub device: Option<String>,
    pub errors: BtrfsErrorStats,
}
