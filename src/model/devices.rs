//! Devices that sysfs describes.

use std::sync::Arc;

use crate::model::Temperature;

/// Read on the blocking worker, because a driver or firmware may block the read indefinitely.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Devices {
    /// Thermal zones of `/sys/class/thermal`.
    pub temperatures: Vec<Temperature>,
    /// Chips of `/sys/class/hwmon` that have temperature sensors.
    pub chips: Vec<Chip>,
    /// Interfaces of `/sys/class/net`.
    pub interfaces: Vec<Interface>,
    /// Number of zones, chips and interfaces that are not read because there are too many.
    pub truncated: usize,
}

/// A chip of `/sys/class/hwmon`.
#[derive(Debug, Clone, PartialEq)]
pub struct Chip {
    /// Derived from its device, so it is stable across reboots: `nvme_nvme0`.
    pub id: Arc<str>,
    /// Name given by the driver: `nvme`.
    pub name: Option<Arc<str>>,
    pub sensors: Vec<Sensor>,
}

/// A temperature sensor; `None`: the chip does not provide the value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensor {
    /// `temp1`.
    pub id: Arc<str>,
    /// What it measures: `Composite`.
    pub label: Option<Arc<str>>,
    pub celsius: Option<f64>,
    /// The chip is too warm from here on.
    pub max_celsius: Option<f64>,
    /// The chip is damaged or shuts down from here on.
    pub critical_celsius: Option<f64>,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Interface {
    pub device: Arc<str>,
    /// `up`, `down`, `unknown`, …
    pub state: Arc<str>,
    /// `None`: the interface is down, and the kernel refuses the read.
    pub carrier: Option<bool>,
    pub attributes: Arc<InterfaceAttributes>,
}

/// Attributes that change by configuration only, up to a minute old. Empty or `None`: the driver does not provide it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceAttributes {
    pub address: String,
    pub broadcast: String,
    /// `full`, `half`, `unknown`.
    pub duplex: String,
    /// Set by an administrator (`ip link set alias`).
    pub alias: String,
    /// Whether an administrator has set it up.
    pub is_admin_up: Option<bool>,
    pub mtu_bytes: Option<u64>,
    /// Bytes per second.
    pub speed_bytes: Option<u64>,
    /// Number of packets.
    pub transmit_queue_length: Option<u64>,
    /// ARPHRD number: 1 is Ethernet, 772 loopback.
    pub protocol_type: Option<u64>,
}
