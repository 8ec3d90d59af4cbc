//! Bonds: network interfaces made of others.

/// A bond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bond {
    /// Name of the bond's interface.
    pub master: String,
    /// Number of interfaces that it is made of.
    pub slaves: usize,
    /// Number of those whose link is up.
    pub active: usize,
}
