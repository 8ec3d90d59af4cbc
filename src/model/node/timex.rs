//! State of the clock that a time daemon disciplines, adjtimex(2).

/// A frequency is in parts per million with 16 binary decimals, which is how the kernel counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timex {
    /// As the time daemon reports it to the kernel. Some daemons of PTP never do.
    pub is_synchronized: bool,
    pub offset_nanoseconds: i64,
    pub frequency_scaled_ppm: i64,
    /// Grows by 500 µs each second until the daemon sets it again.
    pub max_error_microseconds: u64,
    pub estimated_error_microseconds: u64,
    /// Bits `STA_*`.
    pub status: u32,
    pub loop_time_constant: u64,
    pub tick_microseconds: u64,
    pub tai_offset_seconds: i32,
    pub pps: Pps,
}

/// A signal of one pulse per second, which few machines have: otherwise all is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pps {
    pub frequency_scaled_ppm: i64,
    pub stability_scaled_ppm: i64,
    pub jitter_nanoseconds: i64,
    /// Binary logarithm of the length of the calibration interval, in seconds.
    pub shift: u32,
    pub jitter_exceeded: u64,
    pub calibrations: u64,
    pub calibration_errors: u64,
    pub stability_exceeded: u64,
}
