//! Metrics that other programs have written into files.

use crate::procfs::prometheus_text::Family;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Textfile {
    /// Files whose metrics are in `families`, sorted by path.
    pub files: Vec<File>,
    /// All with help, sorted by name. No two samples have the same name and labels.
    pub families: Vec<Family>,
    /// Number of files that are not read because there are too many, or too many samples in them.
    pub truncated: usize,
    /// A file, or a part of it, could not be used.
    pub has_error: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub path: String,
    /// When it was last written, since 1970.
    pub modified_nanoseconds: u64,
}
