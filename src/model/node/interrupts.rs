//! Interrupts since boot.

use crate::procfs::interrupts::Interrupt;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interrupts {
    /// Those that have occurred.
    pub each: Vec<Interrupt>,
    /// Number of those beyond the limit.
    pub truncated: usize,
}
