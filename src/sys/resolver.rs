//! getaddrinfo(3), one address family at a time.

use std::ffi::{CStr, CString};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ptr;

/// An address family that [`lookup`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpFamily {
    V4,
    V6,
}

/// `EAI_NODATA` and `EAI_ADDRFAMILY` of <netdb.h>, which libc does not define: the name has no address of this family.
const NO_ADDRESS_OF_FAMILY: [libc::c_int; 2] = [-5, -9];

/// Looks up the addresses of one family. Blocks for as long as the name servers do not answer. Returns no address if the
/// name is known but has none of this family.
///
/// The standard library asks for both families at once, and musl then fails if the answer for one of them is an error:
/// with a name server that refuses AAAA, no name would resolve.
pub fn lookup(host: &str, port: u16, family: IpFamily) -> io::Result<Vec<SocketAddr>> {
    let host = CString::new(host)?;
    // SAFETY: all zeros is a valid `addrinfo` without pointers.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_socktype = libc::SOCK_STREAM;
    hints.ai_family = match family {
        IpFamily::V4 => libc::AF_INET,
        IpFamily::V6 => libc::AF_INET6,
    };
    let mut first = ptr::null_mut();
    // SAFETY: `host` ends with NUL, `hints` is initialized, and `first` is written only on success.
    let code =
        unsafe { libc::getaddrinfo(host.as_ptr(), ptr::null(), &raw const hints, &raw mut first) };
    match code {
        0 => {}
        code if NO_ADDRESS_OF_FAMILY.contains(&code) => return Ok(Vec::new()),
        libc::EAI_SYSTEM => return Err(io::Error::last_os_error()),
        code => {
            // SAFETY: gai_strerror returns a static string for every code.
            let text = unsafe { CStr::from_ptr(libc::gai_strerror(code)) };
            return Err(io::Error::other(text.to_string_lossy()));
        }
    }
    let mut addresses = Vec::new();
    let mut next = first;
    // SAFETY: getaddrinfo returned a list that ends with a null pointer and is valid until freeaddrinfo.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: `ai_addr` is a socket address of the family `ai_family`.
        addresses.extend(unsafe { socket_addr(entry, port) });
        next = entry.ai_next;
    }
    // SAFETY: the list is freed once and not used afterwards.
    unsafe { libc::freeaddrinfo(first) };
    Ok(addresses)
}

/// # Safety
///
/// `ai_addr` points to a socket address of the family `ai_family`.
unsafe fn socket_addr(entry: &libc::addrinfo, port: u16) -> Option<SocketAddr> {
    match entry.ai_family {
        libc::AF_INET => {
            // SAFETY: the caller guarantees it; the read needs no alignment.
            let address = unsafe { entry.ai_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, port).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { entry.ai_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            let (ip, scope) = (address.sin6_addr.s6_addr.into(), address.sin6_scope_id);
            Some(SocketAddrV6::new(ip, port, 0, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(host: &str, family: IpFamily) -> Vec<String> {
        let found = lookup(host, 80, family).unwrap_or_default();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn finds_literal_addresses_of_their_family_only() {
        assert_eq!(texts("192.0.2.1", IpFamily::V4), ["192.0.2.1:80"]);
        assert_eq!(texts("2001:db8::1", IpFamily::V6), ["[2001:db8::1]:80"]);
        assert!(texts("192.0.2.1", IpFamily::V6).is_empty());
        assert!(texts("2001:db8::1", IpFamily::V4).is_empty());
        assert_eq!(texts("fe80::1%1", IpFamily::V6), ["[fe80::1%1]:80"]);
    }

    #[test]
    fn resolves_localhost_and_rejects_invalid_names() {
        assert_eq!(texts("localhost", IpFamily::V4), ["127.0.0.1:80"]);
        assert!(lookup("nul\0nul", 80, IpFamily::V4).is_err());
        let error = lookup("no such name", 80, IpFamily::V4).expect_err("not a name");
        assert!(!error.to_string().is_empty());
    }
}
