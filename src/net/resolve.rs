//! Addresses of a server's name.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::sys::resolver::{IpFamily, lookup};
use crate::util::thread::spawn_detached;

/// How long the lookup of IPv6 addresses may take after the IPv4 addresses have failed. A name server that never answers AAAA
/// would else delay each attempt to connect by libc's timeout, 10 s or more (resolv.conf(5)).
pub const IPV6_LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Lookups that have exceeded the timeout, and libc has not given up yet.
const MAX_PENDING: usize = 4;
/// glibc puts answers of up to 64 KiB on the stack.
const STACK_BYTES: usize = 256 << 10;

static PENDING: AtomicUsize = AtomicUsize::new(0);

/// The addresses of `host`, IPv4 first. IPv6 addresses are looked up only when the caller needs more: a name server that does
/// not answer AAAA then delays no connection. An error means that the lookup of one family failed.
pub fn addresses(host: &str, port: u16) -> impl Iterator<Item = io::Result<SocketAddr>> {
    let literal = host.parse().ok().map(|ip: IpAddr| Ok(SocketAddr::new(ip, port)));
    let families: &[IpFamily] = match literal {
        Some(_) => &[],
        None => &[IpFamily::V4, IpFamily::V6],
    };
    let mut has_ipv4 = false;
    let looked_up = families.iter().flat_map(move |&family| {
        let result = match family {
            IpFamily::V6 if has_ipv4 => lookup_within(IPV6_LOOKUP_TIMEOUT, host, port, family),
            _ => lookup(host, port, family),
        };
        match result {
            Ok(found) => {
                has_ipv4 |= !found.is_empty();
                found.into_iter().map(Ok).collect()
            }
            Err(error) => vec![Err(error)],
        }
    });
    literal.into_iter().chain(looked_up)
}

/// Looks up addresses on a thread, because getaddrinfo has no timeout. A lookup that takes longer is abandoned: its thread ends
/// when libc gives up.
fn lookup_within(
    timeout: Duration,
    host: &str,
    port: u16,
    family: IpFamily,
) -> io::Result<Vec<SocketAddr>> {
    if PENDING.fetch_add(1, Ordering::Relaxed) >= MAX_PENDING {
        PENDING.fetch_sub(1, Ordering::Relaxed);
        return Err(io::Error::other("name servers have not answered earlier lookups"));
    }
    let (host, (sender, receiver)) = (host.to_owned(), channel());
    let started = spawn_detached("dns", STACK_BYTES, move || {
        let found = lookup(&host, port, family);
        PENDING.fetch_sub(1, Ordering::Relaxed);
        // After the timeout there is no receiver.
        let _ = sender.send(found);
    });
    started.inspect_err(|_| {
        PENDING.fetch_sub(1, Ordering::Relaxed);
    })?;
    let late = || format!("name servers did not answer within {} s", timeout.as_secs());
    receiver.recv_timeout(timeout).unwrap_or_else(|_| Err(io::Error::other(late())))
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
