//! What `/sys/devices/system/cpu` and `/proc/cpuinfo` tell of processors.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// CPUs that are present, and whether they are online.
    pub online: Vec<(u32, bool)>,
    /// CPUs that the scheduler does not use by itself.
    pub isolated: Vec<u32>,
    pub core_throttles: Vec<CoreThrottles>,
    pub package_throttles: Vec<PackageThrottles>,
    pub packages: Vec<Package>,
    /// Number of CPUs that are not shown because there are too many.
    pub truncated: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreThrottles {
    pub package: u64,
    pub core: u64,
    /// How often the core was slowed down because it was too hot.
    pub count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackageThrottles {
    pub package: u64,
    /// How often the package was slowed down because it was too hot.
    pub count: u64,
}

/// A processor package. Empty: the architecture does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    pub number: String,
    pub vendor: String,
    pub family: String,
    pub model: String,
    pub model_name: String,
    pub microcode: String,
    pub stepping: String,
    pub cache_size: String,
}
