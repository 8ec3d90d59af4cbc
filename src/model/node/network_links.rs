//! Network interfaces: what the kernel counts but `/proc/net/dev` does not contain.

/// Counters of one interface; `None`: the kernel does not have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkLink {
    pub device: String,
    pub kind: LinkKind,
    /// Both directions. 32 bits.
    pub carrier_changes: Option<u32>,
    pub carrier_up_changes: Option<u32>,
    pub carrier_down_changes: Option<u32>,
    /// Packets received by an inactive interface of a bond, for which there is no handler.
    pub receive_no_handler: Option<u64>,
}

/// What an interface is. If there are too many, the first ones are the most important.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    Hardware,
    /// A bridge, a bond, a VLAN, and so on.
    Virtual,
    /// Its peer is in another network namespace: that of a container.
    PeerInOtherNamespace,
}
