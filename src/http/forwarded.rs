//! The client's IP address behind reverse proxies.

use std::net::{IpAddr, SocketAddr};

use crate::http::request::{RequestHead, trim_ows};

/// The IP address of the client behind `peer`: taken from `X-Forwarded-For`, or without it from `X-Real-IP`, if `peer` is a
/// trusted proxy; otherwise `peer` itself.
///
/// Each proxy appends the address of its own peer. So the list is read from its end, past trusted proxies: the first other
/// address is the client. Everything before it may have been written by the client.
pub(crate) fn client_ip(head: &RequestHead<'_>, peer: IpAddr, trusted: &[IpAddr]) -> IpAddr {
    if !trusted.contains(&peer) {
        return peer;
    }
    let values = head.header_values("x-forwarded-for");
    let forwarded: Vec<&str> = values.flat_map(|value| value.split(',')).map(trim_ows).collect();
    if forwarded.is_empty() {
        return head.header("x-real-ip").and_then(parse_ip).unwrap_or(peer);
    }
    let mut client = peer;
    for text in forwarded.into_iter().rev() {
        // No proxy vouches for what precedes an invalid entry.
        let Some(ip) = parse_ip(text) else { break };
        client = ip;
        if !trusted.contains(&ip) {
            break;
        }
    }
    client
}

/// Parses an address with or without port and brackets.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let text = trim_ows(text);
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let ip: Option<IpAddr> = plain.parse().ok();
    ip.or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()))
        .map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(headers: &str, peer: &str) -> String {
        let trusted = ["127.0.0.1".parse().unwrap(), "10.0.0.9".parse().unwrap()];
        let text = format!("GET / HTTP/1.1\r\n{headers}\r\n");
        let mut slots = RequestHead::header_slots();
        let head = RequestHead::parse(text.as_bytes(), &mut slots).unwrap().unwrap().0;
        client_ip(&head, peer.parse().unwrap(), &trusted).to_string()
    }

    #[test]
    fn trusts_forwarded_address_only_from_trusted_proxies() {
        for (headers, peer, expected) in [
            ("", "127.0.0.1", "127.0.0.1"),
            ("X-Forwarded-For: 1.2.3.4\r\n", "127.0.0.1", "1.2.3.4"),
            ("X-Forwarded-For: 1.2.3.4\r\n", "5.6.7.8", "5.6.7.8"),
            ("X-Real-IP: 1.2.3.4\r\n", "127.0.0.1", "1.2.3.4"),
            ("X-Real-IP: 1.2.3.4\r\n", "5.6.7.8", "5.6.7.8"),
            ("X-Real-IP: 9.9.9.9\r\nX-Forwarded-For: 1.2.3.4\r\n", "127.0.0.1", "1.2.3.4"),
            // The client wrote 6.6.6.6 itself.
            ("X-Forwarded-For: 6.6.6.6, 1.2.3.4\r\n", "127.0.0.1", "1.2.3.4"),
            ("X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.9\r\n", "127.0.0.1", "1.2.3.4"),
            ("X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 10.0.0.9\r\n", "127.0.0.1", "1.2.3.4"),
            ("X-Forwarded-For: 10.0.0.9\r\n", "127.0.0.1", "10.0.0.9"),
            ("X-Forwarded-For: [2001:db8::1]:443\r\n", "127.0.0.1", "2001:db8::1"),
            ("X-Forwarded-For: ::ffff:1.2.3.4\r\n", "127.0.0.1", "1.2.3.4"),
            ("X-Forwarded-For: 1.2.3.4, unknown\r\n", "127.0.0.1", "127.0.0.1"),
            ("X-Forwarded-For: \r\n", "127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(client(headers, peer), expected, "{headers:?} from {peer}");
        }
    }
}
