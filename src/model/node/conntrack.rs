//! Connection tracking of the kernel's packet filter.

use crate::procfs::nf_conntrack::NfConntrackStats;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conntrack {
    pub entries: u64,
    /// A new connection beyond it is dropped.
    pub limit: Option<u64>,
    pub stats: Option<NfConntrackStats>,
}
