//! Data in the queues of UDP sockets.

use crate::procfs::net_udp::UdpQueues;

/// By version of IP; `None`: the kernel does not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpQueuesByVersion {
    pub v4: Option<UdpQueues>,
    pub v6: Option<UdpQueues>,
}
