//! What sysfs says of sensors and network interfaces, and how reading a machine went.

use std::sync::Arc;
use std::time::Duration;

use crate::model::Temperature;

/// What is read beside the sampler, because a driver may take its time, or for ever.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Devices {
    /// Thermal zones.
    pub temperatures: Vec<Temperature>,
    /// Chips with temperature sensors, of `/sys/class/hwmon`.
    pub chips: Vec<Chip>,
    /// Network interfaces, of `/sys/class/net`.
    pub interfaces: Vec<Interface>,
    /// Zones, chips and interfaces beyond those that are read.
    pub left_out: usize,
}

/// One chip of `/sys/class/hwmon`.
#[derive(Debug, Clone, PartialEq)]
pub struct Chip {
    /// Which one, from its device: `nvme_nvme0`.
    pub chip: Arc<str>,
    /// What its driver calls it: `nvme`.
    pub name: Option<Arc<str>>,
    /// Its temperature sensors.
    pub sensors: Vec<Sensor>,
}

/// One temperature sensor; `None`: the chip does not say.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensor {
    /// Which one: `temp1`.
    pub sensor: Arc<str>,
    /// What it measures: `Composite`.
    pub label: Option<Arc<str>>,
    /// Degrees Celsius.
    pub celsius: Option<f64>,
    /// From here on the chip is too warm, degrees Celsius.
    pub max_celsius: Option<f64>,
    /// From here on it is damaged or shut down, degrees Celsius.
    pub critical_celsius: Option<f64>,
}

/// One network interface. All but its state and carrier may be a minute old.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Interface {
    /// Its name.
    pub device: Arc<str>,
    /// `up`, `down`, `unknown`, ….
    pub state: Arc<str>,
    /// Whether there is a carrier; an interface that is down does not say.
    pub carrier: Option<bool>,
    /// What does not change by itself.
    pub fixed: Arc<FixedInterface>,
}

/// What of an interface does not change by itself; empty or `None`: it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FixedInterface {
    /// Its hardware address.
    pub address: String,
    /// Where everybody is reached.
    pub broadcast: String,
    /// `full`, `half`, `unknown`.
    pub duplex: String,
    /// What an administrator calls it.
    pub alias: String,
    /// The longest packet, in bytes.
    pub mtu_bytes: Option<u64>,
    /// Bytes per second.
    pub speed_bytes: Option<u64>,
    /// Packets that may wait to be sent.
    pub transmit_queue_length: Option<u64>,
    /// The kernel's number of its kind: 1 is Ethernet, 772 loopback.
    pub protocol_type: Option<u64>,
}

/// How reading one source went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorStatus {
    /// Which one.
    pub name: &'static str,
    /// Whether it could be read this time.
    pub success: bool,
    /// How long it took.
    pub duration: Duration,
    /// When it could be read last, Unix seconds; `None`: never yet.
    pub last_success_unix_seconds: Option<u64>,
}
