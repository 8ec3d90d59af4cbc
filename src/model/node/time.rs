//! Clock sources and time zone.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Time {
    pub clock_sources: Vec<ClockSource>,
    /// Abbreviation of the time zone that is in force, and seconds east of UTC.
    pub zone: Option<(String, i64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockSource {
    pub number: u64,
    /// `tsc`.
    pub current: Option<String>,
    pub available: Vec<String>,
}
