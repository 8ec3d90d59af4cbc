//! NVMe controllers and their namespaces.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nvme {
    pub controllers: Vec<NvmeController>,
    /// Number of controllers and namespaces that are not read because there are too many.
    pub truncated: usize,
}

/// Empty: the kernel does not have the attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmeController {
    /// `nvme0`.
    pub device: String,
    pub firmware_revision: String,
    pub model: String,
    pub serial: String,
    /// `live`, `resetting`, `connecting`, `deleting`, `dead`, …
    pub state: String,
    /// Number of the controller within its subsystem.
    pub controller_id: String,
    pub namespaces: Vec<NvmeNamespace>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmeNamespace {
    /// The number in the name of its block device.
    pub id: String,
    /// State of the path to a namespace that several controllers share: `optimized`.
    pub ana_state: Option<String>,
    pub logical_block_bytes: Option<u64>,
    /// Sectors of 512 bytes, whatever the size of a logical block.
    pub size_sectors: Option<u64>,
}
