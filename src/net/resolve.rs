//! Addresses of a server's name.

use std::io;
use std::net::SocketAddr;

use crate::sys::resolver::{IpFamily, lookup};

/// The addresses of `host`, IPv4 first. IPv6 addresses are looked up only when the caller needs more: a name server that does
/// not answer AAAA then delays no connection. An error means that the lookup of one family failed.
pub fn addresses(host: &str, port: u16) -> impl Iterator<Item = io::Result<SocketAddr>> {
    [IpFamily::V4, IpFamily::V6].into_iter().flat_map(move |family| {
        match lookup(host, port, family) {
            Ok(found) => found.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_up_ipv4_before_ipv6() {
        let found = |host| addresses(host, 80).flatten().map(|found| found.to_string());
        assert_eq!(found("localhost").next().as_deref(), Some("127.0.0.1:80"));
        assert_eq!(found("::1").collect::<Vec<_>>(), ["[::1]:80"]);
        assert_eq!(found("192.0.2.1").collect::<Vec<_>>(), ["192.0.2.1:80"]);
    }
}
