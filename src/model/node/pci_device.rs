//! GPUs, network adapters and drives on the PCI bus.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PciDevices {
    pub devices: Vec<PciDevice>,
    /// Number of devices that are not read because there are too many.
    pub truncated: usize,
}

/// Identifiers are hexadecimal, as the kernel prints them: `0x10de`. Empty or `None`: the kernel does not provide it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciDevice {
    pub address: PciAddress,
    /// The bridge that it is connected to.
    pub parent: Option<PciAddress>,
    pub class: String,
    pub vendor: String,
    pub device: String,
    pub subsystem_vendor: String,
    pub subsystem_device: String,
    pub revision: String,
    pub numa_node: Option<u64>,
    pub link: PciLink,
    pub max_link: PciLink,
}

/// Parts of an address such as `0000:41:00.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciAddress {
    pub segment: String,
    pub bus: String,
    pub device: String,
    pub function: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PciLink {
    /// Per lane.
    pub transfers_per_second: Option<u64>,
    /// Number of lanes.
    pub width: Option<u64>,
}
