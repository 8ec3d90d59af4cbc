//! `ip -o address`: the addresses of each interface.
//!
//! Format: ip-address(8), one address per line. Two real lines:
//!
//! ```text
//! 2: eth0    inet 192.0.2.7/24 brd 192.0.2.255 scope global eth0\       valid_lft forever preferred_lft forever
//! 2: eth0    inet6 fe80::216:3eff:fe4c:1/64 scope link \       valid_lft forever preferred_lft forever
//! ```

use std::net::IpAddr;

use crate::procfs::{fields, lines};

/// Parses the output into interface names and addresses, in its order. Lines without an address are skipped.
pub fn parse(text: &[u8]) -> Vec<(Vec<u8>, IpAddr)> {
    lines(text).filter_map(|(_, line)| address(line)).collect()
}

fn address(line: &[u8]) -> Option<(Vec<u8>, IpAddr)> {
    let mut fields = fields(line).skip(1);
    // A virtual interface may be printed with the interface below it: eth0.5@eth0.
    let name = fields.next()?.split(|&byte| byte == b'@').next()?.to_vec();
    if !matches!(fields.next()?, b"inet" | b"inet6") {
        return None;
    }
    let address = fields.next()?.split(|&byte| byte == b'/').next()?;
    Some((name, std::str::from_utf8(address).ok()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &[u8] =
        b"1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever
2: eth0    inet 192.0.2.7/24 brd 192.0.2.255 scope global eth0\\       valid_lft forever
2: eth0    inet6 fe80::216:3eff:fe4c:1/64 scope link \\       valid_lft forever
3: tun0    inet 10.0.0.2 peer 10.0.0.1/32 scope global tun0\\       valid_lft forever
4: veth1@if3    inet 10.1.0.1/24 scope global veth1\\       valid_lft forever
5: eth1: <NO-CARRIER> mtu 1500
";

    #[test]
    fn parses_real_output_cut_at_every_byte() {
        let found: Vec<String> = parse(REAL)
            .iter()
            .map(|(name, address)| format!("{} {address}", String::from_utf8_lossy(name)))
            .collect();
        let expected = [
            "lo 127.0.0.1",
            "eth0 192.0.2.7",
            "eth0 fe80::216:3eff:fe4c:1",
            "tun0 10.0.0.2",
            "veth1 10.1.0.1",
        ];
        assert_eq!(found, expected);
        for end in 0..REAL.len() {
            assert!(parse(&REAL[..end]).len() <= 5);
        }
    }
}
