//! Sensors of `/sys/class/hwmon` that are not read with every sample.

use std::sync::Arc;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hwmon {
    pub chips: Vec<ChipAttributes>,
    /// Number of attributes that are not read because there are too many.
    pub truncated: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChipAttributes {
    /// As in [`crate::model::devices::Chip`].
    pub id: Arc<str>,
    /// Name given by the driver: `nct6798`.
    pub name: Option<Arc<str>>,
    pub sensors: Vec<SensorAttributes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SensorAttributes {
    /// `fan2`.
    pub id: String,
    /// `fan`.
    pub kind: String,
    /// What it measures: `CPU Fan`.
    pub label: Option<String>,
    /// Names of the other attributes, such as `min_alarm`, and their values in the units of the kernel.
    pub values: Vec<(String, i64)>,
}
