//! Clock frequencies of the CPUs.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuFreq {
    pub cpus: Vec<CpuFrequency>,
    /// Number of CPUs that are not read because there are too many.
    pub truncated: usize,
}

/// `None`: the driver does not provide it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuFrequency {
    pub cpu: u64,
    pub current_khz: Option<u64>,
    /// Limits set by software.
    pub scaling_min_khz: Option<u64>,
    pub scaling_max_khz: Option<u64>,
    /// Limits of the hardware.
    pub hardware_min_khz: Option<u64>,
    pub hardware_max_khz: Option<u64>,
    /// `performance`.
    pub governor: Option<String>,
    /// Separated by spaces.
    pub available_governors: String,
}
