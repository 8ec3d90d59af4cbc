//! Netlink: tables of the kernel that no file has, netlink(7). They are those of the network namespace of this process.
#![deny(
    unsafe_code,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The kernel answers while it handles the request, unless a lock that it needs is held: that of all interfaces while a driver
/// configures one.
const RECEIVE_TIMEOUT_SECONDS: i64 = 3;
/// The kernel fills at most 32 KiB.
const DATAGRAM_BYTES: usize = 64 << 10;
/// A dump without an end is none: this many datagrams have 2 GiB.
const MAX_DATAGRAMS: usize = 65_536;

const HEADER_BYTES: usize = 16;
/// Messages and attributes begin at multiples of it.
const ALIGNMENT: usize = 4;
/// Type of a request for sockets, linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// Passes every network interface to `each`: a `struct ifinfomsg` and its attributes, rtnetlink(7).
pub fn dump_links(each: impl FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()> {
    // No family, no index: all interfaces.
    dump(SockProtocol::NetlinkRoute, libc::RTM_GETLINK, &[0; LINK_HEADER_BYTES], each)
}

/// Size of `struct ifinfomsg`.
pub const LINK_HEADER_BYTES: usize = 16;

/// Passes every TCP socket of a family to `each`: a `struct inet_diag_msg` and its attributes, sock_diag(7).
pub fn dump_tcp_sockets(
    family: AddressFamily,
    each: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<()> {
    // struct inet_diag_req_v2: family, protocol, requested attributes, padding, a bit for each state, and an id that is not used.
    let mut request = [0; 56];
    let head = [family as u8, libc::IPPROTO_TCP as u8, 0, 0, 0xff, 0xff, 0xff, 0xff];
    request.iter_mut().zip(head).for_each(|(byte, value)| *byte = value);
    dump(SockProtocol::NetlinkSockDiag, SOCK_DIAG_BY_FAMILY, &request, each)
}

/// Requests a table and passes the body of each message to `each`, until that breaks or there are no more.
fn dump(
    protocol: SockProtocol,
    message_type: u16,
    body: &[u8],
    mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<()> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(RECEIVE_TIMEOUT_SECONDS))?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(fd.as_raw_fd(), &request(message_type, body), &kernel, MsgFlags::empty())?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    for _ in 0..MAX_DATAGRAMS {
        // Returns the size of a datagram that is larger than the buffer, too.
        let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
        let datagram = buffer.get(..length).ok_or(io::ErrorKind::FileTooLarge)?;
        if read_datagram(datagram, &mut each)?.is_break() {
            return Ok(());
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

/// `struct nlmsghdr` and the body, whose size is a multiple of [`ALIGNMENT`].
fn request(message_type: u16, body: &[u8]) -> Vec<u8> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let length = HEADER_BYTES.saturating_add(body.len()) as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(message_type.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port: there is one request for each socket, and the kernel fills in the port.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Breaks after the last message of the dump, or when `each` does.
fn read_datagram(
    mut datagram: &[u8],
    each: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>> {
    while !datagram.is_empty() {
        let malformed = io::ErrorKind::InvalidData;
        let length = u32_at(datagram, 0).ok_or(malformed)? as usize;
        let message_type = u16_at(datagram, 4).ok_or(malformed)?;
        let body = datagram.get(HEADER_BYTES..length).ok_or(malformed)?;
        match i32::from(message_type) {
            libc::NLMSG_NOOP => {}
            // Both begin with an error number, which is negative, or 0.
            libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                let error = u32_at(body, 0).unwrap_or_default().cast_signed();
                return match error {
                    0.. => Ok(ControlFlow::Break(())),
                    _ => Err(io::Error::from_raw_os_error(error.saturating_neg())),
                };
            }
            _ if each(body).is_break() => return Ok(ControlFlow::Break(())),
            _ => {}
        }
        datagram = datagram.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
    Ok(ControlFlow::Continue(()))
}

/// The attributes of a message with their types: `struct rtattr` and a value each. Ends at one that is malformed.
pub fn attributes(mut text: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const HEADER_BYTES: usize = 4;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(text, 0)?);
        let attribute_type = u16_at(text, 2)? & libc::NLA_TYPE_MASK as u16;
        let value = text.get(HEADER_BYTES..length)?;
        text = text.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((attribute_type, value))
    })
}

/// The number that begins at a byte, in the byte order of the machine.
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(message_type: u16, body: &[u8]) -> Vec<u8> {
        let mut message = request(message_type, body);
        message.resize(message.len().next_multiple_of(ALIGNMENT), 0);
        message
    }

    /// The bodies of a datagram's messages, and whether the dump ended.
    fn bodies(datagram: &[u8]) -> io::Result<(Vec<Vec<u8>>, bool)> {
        let mut bodies = Vec::new();
        let flow = read_datagram(datagram, &mut |body| {
            bodies.push(body.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok((bodies, flow.is_break()))
    }

    #[test]
    fn splits_datagram_into_messages() {
        let data = [message(16, b"abcde"), message(16, b"")].concat();
        assert_eq!(bodies(&data).unwrap(), (vec![b"abcde".to_vec(), vec![]], false));
        let done = [data, message(libc::NLMSG_DONE as u16, &[0; 4]), message(16, b"x")].concat();
        assert_eq!(bodies(&done).unwrap(), (vec![b"abcde".to_vec(), vec![]], true));
    }

    #[test]
    fn error_of_the_kernel_is_returned() {
        let errno = (-libc::ENOENT).to_ne_bytes();
        for message_type in [libc::NLMSG_ERROR, libc::NLMSG_DONE] {
            let error = bodies(&message(message_type as u16, &errno)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        }
    }

    #[test]
    fn truncated_datagram_is_an_error() {
        let data = [message(16, b"abcd"), message(16, b"efgh")].concat();
        let first = message(16, b"abcd").len();
        for end in (1..data.len()).filter(|end| *end != first) {
            assert!(bodies(&data[..end]).is_err(), "{end}");
        }
        assert!(bodies(&[0; 16]).is_err(), "a message shorter than its header");
    }

    #[test]
    fn iterates_over_attributes_until_one_is_malformed() {
        let attribute = |attribute_type: u16, value: &[u8]| {
            let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
            bytes.extend(attribute_type.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
            bytes
        };
        let nested = 0x8000 | 18;
        let data = [attribute(3, b"eth0\0"), attribute(nested, b""), vec![3, 0, 1, 0]].concat();
        let found: Vec<(u16, &[u8])> = attributes(&data).collect();
        assert_eq!(found, [(3, &b"eth0\0"[..]), (18, b"")]);
        for end in 0..data.len() {
            assert!(attributes(&data[..end]).count() <= 2);
        }
    }

    #[test]
    fn dumps_of_this_machine_have_loopback_interface_and_listening_socket() {
        let mut has_loopback = false;
        dump_links(|link| {
            let mut attributes = attributes(link.get(LINK_HEADER_BYTES..).unwrap());
            has_loopback |= attributes.any(|each| each == (libc::IFLA_IFNAME, &b"lo\0"[..]));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(has_loopback);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_be_bytes();
        let mut is_found = false;
        let result = dump_tcp_sockets(AddressFamily::Inet, |socket| {
            is_found |= socket[4..6] == port;
            ControlFlow::Continue(())
        });
        // Not every kernel has the module.
        assert!(is_found || result.unwrap_err().raw_os_error() == Some(libc::ENOENT));
    }
}
