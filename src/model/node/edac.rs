//! Memory errors that the memory controllers found (EDAC: error detection and correction).

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edac {
    pub controllers: Vec<Controller>,
    /// Number of controllers, rows and channels that are not read because there are too many.
    pub truncated: usize,
}

/// Number of errors since the driver was loaded; `None`: the controller does not count them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrorCounts {
    pub correctable: Option<u64>,
    pub uncorrectable: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    pub number: u64,
    pub errors: ErrorCounts,
    /// Errors whose row is not known; they are part of `errors`.
    pub without_row: ErrorCounts,
    pub rows: Vec<Row>,
    pub channels: Vec<Channel>,
}

/// A chip-select row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub number: u64,
    pub errors: ErrorCounts,
}

/// A channel of a row: a memory module, or half of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Number of the row, or the directory of the module (`dimm3`) if the kernel shows no rows.
    pub row: String,
    /// `unknown` if the driver does not tell.
    pub channel: String,
    /// What the driver or the administrator calls the module: `CPU_SrcID#0_MC#0_Chan#0_DIMM#0`.
    pub dimm_label: Option<String>,
    pub errors: ErrorCounts,
}
