//! Outbound connections: URL, proxy, TLS, WebSocket client, reconnecting.

pub mod credentials;
pub mod disconnect;
pub mod endpoint;
pub mod keepalive;
pub mod log_dedup;
pub mod proxy;
pub mod reconnecting_client;
pub mod resolve;
pub mod tls;
pub mod url;
pub mod websocket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The address to connect to for a listener of this machine that is bound to `address`.
pub fn replace_unspecified_ip(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
