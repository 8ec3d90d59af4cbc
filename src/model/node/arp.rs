//! Neighbours of IPv4.

/// Number of entries in the ARP cache, for one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArpEntries {
    pub device: String,
    pub entries: u64,
}
