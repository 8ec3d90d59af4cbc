//! Energy that processors and memory used.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rapl {
    pub zones: Vec<RaplZone>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaplZone {
    /// Directory below `/sys/class/powercap`: `intel-rapl:0:1`.
    pub directory: String,
    /// What it measures, without a number: `package`, `dram`.
    pub name: String,
    /// The number after the name, or else the number of zones before it that have the same name.
    pub index: u64,
    /// Starts again at 0 when it overflows, after some minutes of full load.
    pub energy_microjoules: u64,
}
