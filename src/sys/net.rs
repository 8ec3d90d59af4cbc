//! Connecting without waiting for it, and news of network interfaces.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::mem::size_of;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::time::Duration;

use crate::limits;
use crate::sys::{check, set_option};

/// Begins a connection. The socket does not block; it becomes writable when the connection is there or has
/// failed, and [`TcpStream::take_error`] says which.
pub fn begin_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes no pointers; a descriptor it returns is ours alone.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: `fd` is open and owned by nobody else.
    let socket = unsafe { TcpStream::from_raw_fd(fd) };
    let result = match address {
        SocketAddr::V4(address) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            // SAFETY: `raw` is an address of the family and length that are given.
            unsafe { libc::connect(fd, (&raw const raw).cast(), length) }
        }
        SocketAddr::V6(address) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            let length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            // SAFETY: as above.
            unsafe { libc::connect(fd, (&raw const raw).cast(), length) }
        }
    };
    match check(result) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Has the kernel notice a peer that vanished: by asking when it is silent, and when sent data stays
/// unconfirmed.
pub fn notice_loss(
    fd: BorrowedFd<'_>,
    keepalive_seconds: (i32, i32, i32),
    unconfirmed: Duration,
) -> io::Result<()> {
    let (idle, interval, count) = keepalive_seconds;
    let unconfirmed = libc::c_int::try_from(unconfirmed.as_millis()).unwrap_or(0);
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, idle)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, interval)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, count)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, unconfirmed)
}

/// The kernel's number of a network interface of this network namespace; `None`: there is none of this name.
pub fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name is a C string, which is only read.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index > 0).then_some(index)
}

/// Hears when a network interface of this network namespace comes, goes or changes: rtnetlink(7), the group of links.
#[derive(Debug)]
pub struct LinkNews(File);

impl LinkNews {
    /// Listens from now on.
    pub fn new() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes no pointers; a descriptor it returns is ours alone.
        let fd = check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) })?;
        // SAFETY: `fd` is open and owned by nobody else.
        let socket = unsafe { File::from_raw_fd(fd) };
        // As little as the kernel allows: what does not fit is reported as an error, which says as much.
        set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 0)?;
        // SAFETY: all bytes zero are an address: of no process, for no group.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = libc::RTMGRP_LINK as u32;
        let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: `address` is an address of the family and length that are given.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(Self(socket))
    }

    /// Whether there was any since this was asked last.
    pub fn came(&self) -> bool {
        // Not for ever, should they come faster than they are read. What they say, the interfaces' own files say better.
        let no_more = |read: &io::Result<usize>| {
            read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        let mut reads = (0..limits::LINK_NEWS).map(|_| (&self.0).read(&mut [0]));
        reads.by_ref().take_while(|read| !no_more(read)).count() > 0
    }
}
