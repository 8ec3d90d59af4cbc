//! TCP sockets by state.

/// Names of the states, in the order of their numbers, from 1: `include/net/tcp_states.h`.
pub const TCP_STATES: [&str; 11] = [
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
];

/// IPv4 and IPv6 together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TcpStates {
    /// Number of sockets in each of [`TCP_STATES`].
    pub sockets: [u64; TCP_STATES.len()],
    /// Received, but not read by the process yet.
    pub receive_queued_bytes: u64,
    /// Written by the process, but not acknowledged by the peer yet.
    pub transmit_queued_bytes: u64,
}
