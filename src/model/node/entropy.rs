//! Randomness that the kernel has collected.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entropy {
    pub available_bits: u64,
    pub pool_size_bits: Option<u64>,
}
