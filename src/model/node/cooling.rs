//! Cooling devices of `/sys/class/thermal`: fans, and processors that can be slowed down.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cooling {
    pub devices: Vec<CoolingDevice>,
    /// Number of devices that are not read because there are too many.
    pub truncated: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoolingDevice {
    pub number: u64,
    /// `Processor`; not unique.
    pub device_type: String,
    /// 0: it does not cool. Some drivers use -1 for that.
    pub current_state: Option<i64>,
    pub max_state: Option<i64>,
}
