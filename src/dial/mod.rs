//! What the agent connects to.

pub mod address;
pub mod command;
pub mod commands;
pub mod core;
pub mod heartbeat;
pub mod hm;
pub mod journal;
pub mod ledger;
pub mod socket;
pub mod spool;
pub mod telemetry;
pub mod tls;
pub mod uplink;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where to reach what listens on `address` of this machine.
fn local(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
