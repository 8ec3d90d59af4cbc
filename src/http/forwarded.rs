//! Whose connection this is, when proxies stand in between.

use std::net::{IpAddr, SocketAddr};

use crate::http::message::Head;

/// The address of the client behind `peer`: what trusted proxies say in `X-Forwarded-For` (or, without
/// it, `X-Real-IP`), else the peer itself.
///
/// Each proxy appends the address it was contacted from. So the list is read from its end, over the
/// proxies that are trusted: the first other address is the client. What stands before it, the client
/// could have written itself.
pub fn of(head: &Head<'_>, peer: IpAddr, trusted: &[IpAddr]) -> IpAddr {
    if !trusted.contains(&peer) {
        return peer;
    }
    let forwarded: Vec<&str> =
        head.all("x-forwarded-for").flat_map(|value| value.split(',')).map(str::trim).collect();
    if forwarded.is_empty() {
        return head.one("x-real-ip").and_then(parse).unwrap_or(peer);
    }
    let mut client = peer;
    for text in forwarded.into_iter().rev() {
        // What is no address ends the chain: nobody vouches for what stands before it.
        let Some(address) = parse(text) else { break };
        client = address;
        if !trusted.contains(&address) {
            break;
        }
    }
    client
}

/// An address, perhaps with a port, perhaps in brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address: Option<IpAddr> = plain.parse().ok();
    address
        .or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()))
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(headers: &str, peer: &str) -> String {
        let trusted = ["127.0.0.1".parse().unwrap(), "10.0.0.9".parse().unwrap()];
        let text = format!("GET / HTTP/1.1\r\n{headers}\r\n");
        let mut lines = Head::lines();
        let head = Head::parse(text.as_bytes(), &mut lines).unwrap().unwrap().0;
        of(&head, peer.parse().unwrap(), &trusted).to_string()
    }

    #[test]
    fn a_trusted_proxys_word_counts_and_nobody_elses() {
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
