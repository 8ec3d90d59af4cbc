//! The unit that per-address limits count: one client cannot escape them by using many addresses.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Length of the prefix that an IPv6 host or site gets at least (RFC 6177). It can use all addresses in it.
const IPV6_PREFIX: u32 = 64;

/// An IPv4 address, also if it is written as an IPv4-mapped IPv6 address, or the /64 network of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientNetwork(IpAddr);

/// The client that a connection counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CountedClient {
    pub network: ClientNetwork,
    /// A trusted proxy has named the address. Such connections are counted apart from those that the client opens itself: a
    /// local user can name any address where the loopback address is trusted, and must not use up what belongs to another.
    pub is_forwarded: bool,
}

impl From<IpAddr> for ClientNetwork {
    fn from(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => {
                Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << (128 - IPV6_PREFIX))).into()
            }
        })
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => write!(f, "{ip}"),
            IpAddr::V6(ip) => write!(f, "{ip}/{IPV6_PREFIX}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_addresses_of_an_ipv6_network_but_not_ipv4_addresses() {
        for (address, network) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
            ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
            ("::1", "::/64"),
        ] {
            let ip: IpAddr = address.parse().unwrap();
            assert_eq!(ClientNetwork::from(ip).to_string(), network, "{address}");
        }
    }
}
