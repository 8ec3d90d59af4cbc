//! RDMA devices (InfiniBand, RoCE, iWARP) and their ports.

mod counters;

pub use crate::model::node::infiniband::counters::{COUNTERS, Counter, Unit};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Infiniband {
    pub devices: Vec<InfinibandDevice>,
    pub ports: Vec<InfinibandPort>,
    /// Number of ports that are not read because there are too many.
    pub truncated_ports: usize,
}

/// A device. Empty: its driver does not provide the attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfinibandDevice {
    /// `mlx5_0`.
    pub name: String,
    pub board_id: String,
    pub firmware_version: String,
    /// `MT4129`.
    pub hca_type: String,
}

/// The port of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortId {
    /// Name of the device.
    pub device: String,
    /// From 1.
    pub port: u32,
}

/// State of a port; `None`: its driver does not provide the attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfinibandPort {
    pub id: PortId,
    /// 1 down, 2 initializing, 3 armed, 4 active, 5 active with errors.
    pub state: Option<u64>,
    /// 2 polling, 3 disabled, 4 training, 5 link up, 6 recovering from an error, 7 test.
    pub physical_state: Option<u64>,
    /// Of the link, or if it is down the lowest that there is.
    pub rate_bytes_per_second: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfinibandPortCounters {
    pub id: PortId,
    /// One for each item of [`COUNTERS`], in the unit of the file. `None`: the device does not have it.
    pub values: Vec<Option<u64>>,
}
