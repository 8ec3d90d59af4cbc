//! ZFS pools.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zfs {
    pub pools: Vec<ZfsPool>,
    /// Number of pools that are not read because there are too many.
    pub truncated: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZfsPool {
    pub name: String,
    /// `ONLINE`, `DEGRADED`, `FAULTED`, `SUSPENDED`, …
    pub state: String,
}
