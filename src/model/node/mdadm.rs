//! Software RAID.

use crate::procfs::mdstat::MdArray;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mdadm {
    /// Arrays of `/proc/mdstat`.
    pub arrays: Vec<MdArray>,
    /// Arrays of `/sys/block`.
    pub members: Vec<MdMembers>,
}

/// `None`: the array has no members of its own, or no redundancy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MdMembers {
    /// Name of the block device: `md127`.
    pub device: String,
    /// Number of disks of the complete array.
    pub raid_disks: Option<u64>,
    /// Number of disks that it lacks.
    pub degraded_disks: Option<u64>,
}
